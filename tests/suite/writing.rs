//! Runs that are broken off: by a signal, by a limit, by a full disk. Nothing half-written stays, and what was there is untouched.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use weigh::model::Metadata;
use weigh::ops::convert::{self, Options, Plan};
use weigh::write::output::{Output, Target};
use weigh::{DType, ops};

use crate::build::{tensor, write};

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
    weigh::cli::signals::clean_up_on_signals().unwrap();
    let target = |name: &str| Target { path: folder.join(name), bytes: 1 << 20 };
    let mut output = Output::begin(vec![target("old"), target("new")], true, &[]).unwrap();
    let mut files = [output.create(0).unwrap(), output.create(1).unwrap()];
    for file in &mut files {
        file.append(&[7; 1 << 20]).unwrap();
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
    assert!(said.contains("bytes free") || said.contains("small"), "{said}");
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
fn a_read_only_folder_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    convert_under("true", at);
    fs::create_dir(at.join("locked")).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    for out in ["locked/out.gguf", "locked/new/"] {
        let run = as_nobody(at, &["convert", "in.safetensors", out, "--keep-names"]);
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(run.status.code() == Some(2) && said.contains("Permission denied") && said.contains("locked"), "{said}");
    }
    assert!(names(&at.join("locked")).is_empty());
}

#[test]
fn a_read_only_file_is_not_edited_in_place() {
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
    assert!(run.status.code() == Some(2) && said.contains("already exists") && said.contains("--force"), "{said}");
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
        assert!(run.status.code() == Some(2) && said.contains("is also an input"), "{out}: {said}");
    }
    assert_eq!(fs::read(at.join("in.safetensors")).unwrap(), before);
}

/// Not a test of its own: maps a file, waits to be told to go on, and reads it.
#[test]
fn reading_child() {
    let Some(path) = std::env::var_os("WEIGH_TEST_FILE").map(PathBuf::from) else { return };
    weigh::source::exit_on_truncation(weigh::write::signals::remove_temporaries);
    let reader = weigh::format::open(&path).unwrap();
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

/// Writes a model of eight tensors of 1 MB in F32. Their names end as those do that are given another type.
fn eight(path: &Path) {
    let tensors: Vec<_> = (0..8).map(|i| tensor(&format!("w{i}.weight"), DType::F32, &[512, 512], vec![i; 1 << 20])).collect();
    write("safetensors", path, &tensors, &Metadata::new(), None);
}

/// What converting `input` does when `meanwhile` is done to it once its first piece is written.
fn convert_while(input: &Path, output: &Path, options: &Options, meanwhile: impl Fn() + Sync) -> weigh::Result<()> {
    let reader = weigh::format::open(input)?;
    let plan = Plan::new(&reader, output, options)?;
    let once = Once::new();
    convert::run(&reader, &plan, &|_| once.call_once(&meanwhile)).map(drop)
}

#[test]
fn an_input_that_changes_while_it_is_converted_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (input, output) = (at.join("in.safetensors"), at.join("out.gguf"));
    let scribble = || {
        let file = fs::OpenOptions::new().write(true).open(&input).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 64], 5 << 20).unwrap();
    };
    let replace = || {
        eight(&at.join("other"));
        fs::rename(at.join("other"), &input).unwrap();
    };
    let remove = || fs::remove_file(&input).unwrap();
    let changes: [&(dyn Fn() + Sync); 3] = [&scribble, &replace, &remove];
    for target in [None, Some("F16"), Some("Q8_0")] {
        for (number, change) in changes.iter().enumerate() {
            let _ = fs::remove_file(&input);
            eight(&input);
            fs::write(&output, "old").unwrap();
            let target = target.map(|name: &str| name.parse().unwrap());
            let options = Options { target, keep_names: true, force: true, ..Options::default() };
            let error = convert_while(&input, &output, &options, change).unwrap_err();
            assert_eq!(error.path(), Some(input.as_path()), "{number}: {error}");
            assert!(number == 2 || error.message() == "the file changed while it was being read", "{number}: {error}");
            assert_eq!(fs::read(&output).unwrap(), b"old");
            assert!(names(at).iter().all(|name| ["in.safetensors", "out.gguf"].contains(&name.as_str())), "{:?}", names(at));
        }
    }
    eight(&input);
    convert_while(&input, &output, &Options { keep_names: true, force: true, ..Options::default() }, || {}).unwrap();
}

#[test]
fn values_of_a_changed_file_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let opened = || {
        eight(&path);
        let reader = weigh::format::open(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 64], 5 << 20).unwrap();
        drop(file);
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::rename(folder.path().join("moved"), &path).unwrap();
        reader
    };
    let said = |result: weigh::Result<()>| assert!(result.unwrap_err().message().contains("changed while it was being read"));
    let reader = opened();
    said(ops::stats::stats(&reader, &ops::stats::Options::default()).map(drop));
    said(ops::hash::hash(&reader, &[ops::hash::Algorithm::Xxh64], true).map(drop));
    said(ops::hash::hash_content(&reader, &Default::default(), &[ops::hash::Algorithm::Xxh64], true).map(drop));
    let again = weigh::format::open(&path).unwrap();
    said(ops::diff::diff(&again, &reader, &ops::diff::Options::default()).map(drop));
    ops::diff::diff(&again, &again, &ops::diff::Options::default()).unwrap();
    let change = |_, _| {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    let options = ops::verify::Options { data: true, progress: Some(&change), ..Default::default() };
    said(ops::verify::verify(&path, &options).map(drop));
}

/// Not a test of its own: converts a file, and after the first piece of it waits to be told to go on.
#[test]
fn converting_child() {
    let Some(folder) = std::env::var_os("WEIGH_TEST_CONVERT").map(PathBuf::from) else { return };
    weigh::cli::signals::clean_up_on_signals().unwrap();
    weigh::source::exit_on_truncation(weigh::write::signals::remove_temporaries);
    let target = std::env::var("WEIGH_TEST_TYPE").ok().map(|name| name.parse().unwrap());
    let options = Options { target, keep_names: true, no_quality: true, ..Options::default() };
    let reader = weigh::format::open(&folder.join("in.safetensors")).unwrap();
    let plan = Plan::new(&reader, &folder.join("out.gguf"), &options).unwrap();
    let waiting = std::sync::Mutex::new(true);
    let done = convert::run(&reader, &plan, &|_| {
        // Whoever comes second waits for the lock.
        let mut waiting = waiting.lock().unwrap();
        if std::mem::take(&mut *waiting) {
            println!("\nready");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
    });
    if let Err(error) = done {
        eprintln!("weigh: {error}");
        std::process::exit(2);
    }
}

#[test]
fn an_input_that_shrinks_is_named_once_and_the_temporary_file_goes() {
    for (target, threads) in [(None, "2"), (Some("F16"), "1"), (Some("F16"), "4"), (Some("Q4_0"), "2")] {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.safetensors");
        eight(&input);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["writing::converting_child", "--exact", "--nocapture"]).env("WEIGH_TEST_CONVERT", folder.path());
        command.env("RAYON_NUM_THREADS", threads).envs(target.map(|name| ("WEIGH_TEST_TYPE", name)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_ready(&mut child);
        assert_eq!(names(folder.path()).len(), 2, "the temporary file is there");
        fs::OpenOptions::new().write(true).open(&input).unwrap().set_len(4096).unwrap();
        // Another thread, in the middle of a piece, may have ended it already.
        let _ = std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n");
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{target:?}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("weigh: ")).collect();
        assert!(matches!(lines[..], [line] if line.contains("in.safetensors") && line.contains("became shorter")), "{target:?}: {said}");
        assert_eq!(names(folder.path()), ["in.safetensors"], "{target:?}");
    }
}

#[test]
fn a_model_may_have_more_files_than_the_process_may_open() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let tensors: Vec<_> = (0..120).map(|i| tensor(&format!("w{i}"), DType::F32, &[64], vec![1; 256])).collect();
    write("safetensors", &at.join("in/model.safetensors"), &tensors, &Metadata::new(), Some(256));
    write("gguf", &at.join("m.gguf"), &tensors, &Metadata::new(), Some(256));
    for args in
        ["hash in", "hash m-00001-of-00120.gguf", "convert in out.gguf --keep-names", "convert in new/ --keep-names --shard-size 256B"]
    {
        let script = format!("ulimit -n 48; exec \"$0\" {args}");
        let run = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_weigh")]).current_dir(at).output().unwrap();
        assert!(run.status.success(), "{args}: {}", String::from_utf8_lossy(&run.stderr));
    }
    assert_eq!(names(&at.join("new")).len(), 121);
}

#[test]
fn a_part_is_reported_missing_only_if_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let tensors: Vec<_> = (0..2).map(|i| tensor(&format!("w{i}"), DType::F32, &[64], vec![1; 256])).collect();
    for (format, name, part) in
        [("safetensors", "m.safetensors", "m-00002-of-00002.safetensors"), ("gguf", "m.gguf", "m-00002-of-00002.gguf")]
    {
        write(format, &at.join(name), &tensors, &Metadata::new(), Some(256));
        let first = at.join(part.replace("00002-of", "00001-of"));
        fs::remove_file(at.join(part)).unwrap();
        assert!(weigh::format::open(&first).unwrap_err().hint_text().unwrap().contains("was the download complete?"), "{format}");
        fs::create_dir(at.join(part)).unwrap();
        // Something else in its place: in a set without an index that is a part that is missing, too.
        let error = weigh::format::open(&first).unwrap_err();
        assert_eq!(error.hint_text().is_some_and(|hint| hint.contains("download")), format == "gguf", "{format}: {error:?}");
    }
}

#[test]
fn an_unwritable_page_or_picture_is_an_error_before_the_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // A terabyte, of which nothing is on the disk: reading it would take longer than the limit on time.
    const BYTES: u64 = 1 << 40;
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{BYTES}]}}}}"#, BYTES / 4);
    fs::write(at.join("big.safetensors"), crate::build::safetensors(&header, &[])).unwrap();
    let big = fs::OpenOptions::new().write(true).open(at.join("big.safetensors")).unwrap();
    if big.set_len(8 + header.len() as u64 + BYTES).is_err() {
        return; // a disk that has no files of this size
    }
    fs::write(at.join("there.html"), "old").unwrap();
    fs::write(at.join("there.svg"), "old").unwrap();
    for args in [
        "report big.safetensors -o there.html",
        "report big.safetensors -o missing/page.html",
        "report big.safetensors big.safetensors -o there.html",
        "report big.safetensors -o big.safetensors --force",
        "hist big.safetensors w -o there.svg",
        "hist big.safetensors w -o missing/w.svg",
    ] {
        let script = format!("ulimit -t 20; exec \"$0\" {args}");
        let run = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_weigh")]).current_dir(at).output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{args}: {said}");
        assert!(said.contains("already exists") || said.contains("does not exist") || said.contains("is also an input"), "{args}: {said}");
    }
    assert_eq!(names(at), ["big.safetensors", "there.html", "there.svg"], "no folder is made");
}

/// Opens a file `times` times while another thread makes bytes of its header something else and back: that is an error or a model. The
/// header is so long that bytes which were looked at have changed by the time that its end is reached.
fn opened_while_it_changes(times: u32) {
    let folder = tempfile::tempdir().unwrap();
    let long = "ü".repeat(1 << 20);
    let header = format!(r#"{{"__metadata__":{{"k":"{long}"}},"{long}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
    let gguf = crate::build::Gguf::default().key_str("general.name", &long).f32(&long, &[1]);
    for (name, bytes) in [("m.safetensors", crate::build::safetensors(&header, b"x")), ("m.gguf", gguf.build())] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let place = 8 + bytes[8..].iter().position(|&byte| byte == 0xbc).unwrap() as u64;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for value in [0xff, 0xbc] {
                        std::os::unix::fs::FileExt::write_all_at(&file, &[value], place).unwrap();
                        std::thread::sleep(std::time::Duration::from_micros(100));
                    }
                }
            });
            let open = |_| weigh::format::open(&path).ok();
            let sound = |reader: weigh::format::Reader| {
                let texts = reader.model().metadata.iter().filter_map(|(_, value)| value.as_str());
                texts.chain([reader.model().tensors[0].name.as_str()]).all(|text| text == long)
            };
            let all = (0..times).filter_map(open).map(sound).fold(true, |all, sound| all & sound);
            stop.store(true, Ordering::Relaxed);
            assert!(all, "{name}: something else than a text was read");
        });
        weigh::format::open(&path).unwrap();
    }
}

#[test]
fn a_header_may_change_while_it_is_read() {
    opened_while_it_changes(40);
}

#[test]
#[ignore = "takes a while"]
fn a_header_may_change_while_it_is_read_ten_thousand_times() {
    opened_while_it_changes(10_000);
}

/// The type of all tensors of a model, which must be one; and whether it opens.
fn only_type(path: &Path) -> Option<String> {
    let reader = weigh::format::open(path).ok()?;
    let types: Vec<String> = reader.model().tensors.iter().map(|tensor| tensor.elem.to_string()).collect();
    assert!(types.iter().all(|name| *name == types[0]), "a mixture: {types:?}");
    assert_eq!(types.len(), 8);
    Some(types[0].clone())
}

/// Starts conversions of one model into F16 and BF16 at once, `times` times, into a file and into sets of as many and of fewer parts.
fn two_at_once(times: usize) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    eight(&at.join("in.safetensors"));
    let part = ["--shard-size", "600kB"];
    let larger = ["--shard-size", "1100kB"];
    let cases: [(&str, [&[&str]; 2], bool); 7] = [
        ("m.gguf", [&[], &[]], true),
        ("m.gguf", [&[], &[]], false),
        ("new/", [&part, &part], true),
        ("new/", [&part, &part], false),
        ("new/", [&part, &larger], true),
        ("new/", [&part, &larger], false),
        ("new/", [&part, &[]], true),
    ];
    for (out, shards, force) in cases {
        for round in 0..times {
            let _ = fs::remove_dir_all(at.join("new"));
            let _ = fs::remove_file(at.join("m.gguf"));
            let run = |of: usize| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_weigh"));
                command.args(["convert", "in.safetensors", out, "--keep-names", "--type", ["F16", "BF16"][of]]).args(shards[of]);
                command.args(force.then_some("--force")).current_dir(at).stdout(Stdio::null()).stderr(Stdio::piped());
                command.spawn().unwrap()
            };
            let runs = [run(round % 2), run(1 - round % 2)].map(|child| child.wait_with_output().unwrap());
            let done = runs.iter().filter(|run| run.status.success()).count();
            let said: Vec<_> = runs.iter().map(|run| String::from_utf8_lossy(&run.stderr)).collect();
            // One that looks for what is there while the other is at it may find that and be refused.
            assert!(if force { done >= 1 } else { done == 1 }, "{out} {shards:?} {force}: {done} done: {said:?}");
            assert!(runs.iter().all(|run| matches!(run.status.code(), Some(0 | 2))), "{said:?}");
            let found = only_type(&at.join(out));
            assert!(matches!(found.as_deref(), Some("F16" | "BF16")), "{out} {shards:?}: {found:?}");
            let found = if out == "new/" { names(&at.join("new")) } else { names(at) };
            assert!(found.iter().all(|name| !name.starts_with(".weigh-")), "{found:?}");
            let parts = found.iter().filter(|name| name.contains("-of-")).count();
            assert!(out == "m.gguf" || [0, 4, 8].contains(&parts), "{found:?}");
        }
    }
}

#[test]
fn two_conversions_into_one_output_leave_that_of_one() {
    two_at_once(2);
}

#[test]
#[ignore = "takes a while"]
fn two_conversions_into_one_output_a_hundred_times() {
    two_at_once(100);
}

#[test]
fn a_chunk_count_is_written_only_if_there_is_one() {
    // As llama-quantize does: tools/quantize/quantize.cpp.
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights = tensor("blk.0.ffn_up.weight", DType::F32, &[8, 256], vec![0; 8 * 256 * 4]);
    write("gguf", &at.join("in.gguf"), &[weights], &Metadata::new(), None);
    for (chunks, wanted) in [(None, None), (Some(0u32), None), (Some(7), Some(7))] {
        let name = "blk.0.ffn_up.weight";
        let mut bytes = [1u32, name.len() as u32].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        bytes.extend(name.as_bytes());
        bytes.extend([4u32, 256].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(1f32.to_le_bytes().repeat(256));
        bytes.extend(chunks.into_iter().flat_map(u32::to_le_bytes));
        fs::write(at.join("imatrix.dat"), bytes).unwrap();
        let options = Options {
            target: Some("Q4_K".parse().unwrap()),
            imatrix: Some(at.join("imatrix.dat")),
            keep_names: true,
            force: true,
            ..Options::default()
        };
        convert_while(&at.join("in.gguf"), &at.join("out.gguf"), &options, || {}).unwrap();
        let out = weigh::format::open(&at.join("out.gguf")).unwrap();
        assert_eq!(out.model().metadata.get_u64("quantize.imatrix.chunks_count"), wanted, "{chunks:?}");
        assert_eq!(out.model().metadata.get_u64("quantize.imatrix.entries_count"), Some(1));
    }
}
