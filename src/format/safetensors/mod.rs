//! Safetensors: the format of the Hugging Face hub.
