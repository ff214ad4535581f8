//! Runs that are broken off: by a signal, by a limit, by a full disk. Nothing half-written stays, and what was there is untouched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use weigh::base::output::{Output, Target};
use weigh::base::signals;

/// Set for the process that [`broken_off`] starts: the folder to write in.
const FOLDER: &str = "WEIGH_TEST_FOLDER";

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Not a test of its own: begins two files, one of them to replace an old one, and waits to be ended.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    signals::clean_up_on_signals().unwrap();
    let target = |name: &str| Target { path: folder.join(name), bytes: 1 << 20 };
    let mut output = Output::begin(vec![target("old"), target("new")], true, &[]).unwrap();
    let mut files = [output.create(0).unwrap(), output.create(1).unwrap()];
    for file in &mut files {
        file.put(&[7; 1 << 20]).unwrap();
    }
    assert_eq!(names(&folder).len(), 3);
    println!("\nready");
    std::thread::sleep(std::time::Duration::from_secs(20));
}

fn start(folder: &Path, wrapper: &[&str]) -> std::process::Child {
    let own = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(|word| word.as_ref()).collect();
    words.push(own.as_os_str());
    words.extend(["writing::child", "--exact", "--nocapture"].map(std::ffi::OsStr::new));
    Command::new(words[0]).args(&words[1..]).env(FOLDER, folder).stdout(Stdio::piped()).spawn().unwrap()
}

fn wait_until_ready(child: &mut std::process::Child) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
}

fn kill(child: &std::process::Child, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_signal_leaves_only_what_was_there() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("old"), "untouched").unwrap();
        let mut child = start(folder.path(), &["env", "--default-signal"]);
        wait_until_ready(&mut child);
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert_eq!(names(folder.path()), ["old"], "{signal}");
        assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"untouched");
    }
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old"), "untouched").unwrap();
    let mut child = start(folder.path(), &["env", "--default-signal", "--ignore-signal=HUP"]);
    wait_until_ready(&mut child);
    kill(&child, "HUP");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "a run under nohup goes on");
    kill(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(names(folder.path()), ["old"]);
}

/// A model of 1 MB, and `weigh convert` of it under a shell's limit.
fn convert_under(limit: &str, folder: &Path) -> std::process::Output {
    let header = r#"{"w":{"dtype":"F32","shape":[262144],"data_offsets":[0,1048576]}}"#;
    fs::write(folder.join("in.safetensors"), crate::build::safetensors(header, &vec![0; 1 << 20])).unwrap();
    let script = format!("{limit}; exec \"$0\" convert in.safetensors out.gguf --keep-names --force");
    Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_weigh")]).current_dir(folder).output().unwrap()
}

#[test]
fn a_limit_on_file_sizes_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("out.gguf"), "untouched").unwrap();
    let out = convert_under("ulimit -f 100", folder.path());
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write"), "{said}");
    assert_eq!(names(folder.path()), ["in.safetensors", "out.gguf"]);
    assert_eq!(fs::read(folder.path().join("out.gguf")).unwrap(), b"untouched");
}

#[test]
fn a_disk_that_is_too_small_is_an_error_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    // A disk of its own in a namespace of its own, where the system lets one be made; otherwise a path below a file, which no disk holds.
    let limit =
        "mkdir small && unshare -rm true 2>/dev/null || { rmdir small; touch small; exec \"$0\" convert in.safetensors small/out.gguf; }
        exec unshare -rm sh -c 'mount -t tmpfs -o size=512k none small && \"$0\" convert in.safetensors small/out.gguf --keep-names; \
            status=$?; ls -A small >&2; exit $status' \"$0\"";
    let out = convert_under(limit, folder.path());
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("bytes of free space") || said.contains("small"), "{said}");
    assert!(!said.contains("\nout.gguf") && !said.contains(".weigh-"), "{said}");
}

/// `weigh` as a user who is not root, for whom permissions count.
fn as_nobody(folder: &Path, args: &[&str]) -> std::process::Output {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = if root {
        // Nobody need not be able to reach the folder that the program was built in. Copied by another process: a file that is open for
        // writing here is open in whatever other tests start meanwhile too, and cannot be run.
        assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_weigh")).arg(folder.join("weigh")).status().unwrap().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups"]).arg(folder.join("weigh"));
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_weigh"))
    };
    command.args(args).current_dir(folder).output().unwrap()
}

#[test]
fn a_folder_that_must_not_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    fs::create_dir(at.join("locked")).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    for out in ["locked/out.gguf", "locked/new/out.gguf"] {
        let run = as_nobody(at, &["convert", "in.safetensors", out, "--keep-names"]);
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(2) && said.contains("Permission denied") && said.contains("locked"), "{said}");
    }
    assert!(names(&at.join("locked")).is_empty());
}

#[test]
fn a_file_that_must_not_be_written_is_not_edited_in_its_place() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    let edit = ["meta", "out.gguf", "set", "general.name=string:x", "--in-place"];
    fs::set_permissions(at.join("out.gguf"), fs::Permissions::from_mode(0o444)).unwrap();
    let before = fs::read(at.join("out.gguf")).unwrap();
    let run = as_nobody(at, &edit);
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && said.contains("Permission denied"), "{said}");
    assert_eq!(fs::read(at.join("out.gguf")).unwrap(), before);
    assert!(names(at).iter().all(|name| !name.starts_with(".weigh-")));
}

#[test]
fn an_edit_of_another_user_s_file_says_that_it_cannot_keep_the_owner() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let out = at.join("out.gguf");
    convert_under("true", at);
    fs::set_permissions(at, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    let before = fs::metadata(&out).unwrap();
    let run = as_nobody(at, &["meta", "out.gguf", "set", "general.name=string:x", "--in-place"]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{said}");
    let after = fs::metadata(&out).unwrap();
    assert_eq!(after.mode() & 0o606, 0o606);
    assert_eq!(after.uid() != before.uid(), said.contains("the owner (user 0) could not be kept"), "{said}");
    assert_eq!(before.uid() == 0, said.contains("could not be kept"), "{said}");
}

#[test]
fn an_old_file_stays_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    fs::write(at.join("out.gguf"), "untouched").unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_weigh"))
        .args(["convert", "in.safetensors", "out.gguf", "--keep-names"])
        .current_dir(at)
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.code() == Some(2) && said.contains("there already") && said.contains("--force"), "{said}");
    assert_eq!(fs::read(at.join("out.gguf")).unwrap(), b"untouched");
    assert_eq!(names(at), ["in.safetensors", "out.gguf"]);
}

#[test]
fn what_was_written_is_read_back_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    for (input, args) in [("in.safetensors", &["--keep-names"][..]), ("in.safetensors", &["--keep-names", "--type", "F16"])] {
        let run = Command::new(env!("CARGO_BIN_EXE_weigh"))
            .args(["convert", input, "out.gguf", "--force", "--verify"])
            .args(args)
            .current_dir(at)
            .output()
            .unwrap();
        let said = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success() && said.contains("read back and compared"), "{said}");
    }
}

#[test]
fn an_input_is_not_overwritten_even_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    assert!(fs::metadata(at.join("out.gguf")).unwrap().len() > 1 << 20);
    let before = fs::read(at.join("in.safetensors")).unwrap();
    fs::hard_link(at.join("in.safetensors"), at.join("hard.gguf")).unwrap();
    std::os::unix::fs::symlink("in.safetensors", at.join("soft.gguf")).unwrap();
    for out in ["in.safetensors", "hard.gguf", "soft.gguf", "./in.safetensors"] {
        let run = Command::new(env!("CARGO_BIN_EXE_weigh"))
            .args(["convert", "in.safetensors", out, "--keep-names", "--force"])
            .current_dir(at)
            .output()
            .unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(2) && said.contains("no input"), "{out}: {said}");
    }
    assert_eq!(fs::read(at.join("in.safetensors")).unwrap(), before);
}

/// Not a test of its own: maps a file, waits to be told to go on, and reads it.
#[test]
fn reading_child() {
    let Some(path) = std::env::var_os("WEIGH_TEST_FILE").map(PathBuf::from) else { return };
    weigh::base::mmap::exit_on_truncation();
    let reader = weigh::open(&path).unwrap();
    let bytes = reader.bytes(&reader.model().tensors[0]).unwrap();
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    assert_eq!(bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 0);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let header = r#"{"w":{"dtype":"U8","shape":[1048576],"data_offsets":[0,1048576]}}"#;
    fs::write(&path, crate::build::safetensors(header, &vec![0; 1 << 20])).unwrap();
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.args(["writing::reading_child", "--exact", "--nocapture"]).env("WEIGH_TEST_FILE", &path);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_ready(&mut child);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("became shorter"));
}
