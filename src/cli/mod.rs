//! The commands: arguments -> operation -> render. Only this floor knows clap and progress bars.
