//! The command line: what `weir` prints, and how it exits.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Output, Stdio};

use weir_tests::guests::Chameleon;
use weir_tests::process::{command, written};
use weir_tests::weir::{Setup, guests_directory, plugins_directory};

type Result<T = ()> = anyhow::Result<T>;

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().expect("weir starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line of the file that holds this text, from 1.
fn line_of(config: &Path, wanted: &str) -> Result<usize> {
    let text = std::fs::read_to_string(config)?;
    let at = text.lines().position(|line| line.contains(wanted));
    Ok(at.unwrap_or_else(|| panic!("{wanted:?} is not in {text}")) + 1)
}

#[test]
fn help_and_version_are_printed_and_nonsense_is_not_accepted() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    for command in ["run", "check", "inspect"] {
        assert!(text(&help.stdout).contains(command), "{}", text(&help.stdout));
        assert!(run(&[command, "--help"]).status.success());
    }
    let version = run(&["--version"]);
    assert_eq!(
        (version.status.code(), text(&version.stdout)),
        (Some(0), format!("weir {}\n", env!("CARGO_PKG_VERSION")))
    );
    for nonsense in [&[][..], &["rum"], &["run", "--conf"], &["inspect"]] {
        let output = run(nonsense);
        assert_eq!(output.status.code(), Some(2), "{nonsense:?}");
        assert!(text(&output.stderr).contains("Usage"), "{nonsense:?}: {}", text(&output.stderr));
    }
}

#[test]
fn check_prints_every_problem_of_the_file_with_its_line_and_a_hint() -> Result {
    let setup = Setup::new()
        .toml("[[service]]\nname = \"users\"\nendpoint = []\nendpoints = [{ address = \"127.0.0.1\" }]")
        .toml("[[route]]\nmatch = { host = \"users\" }\nservice = \"user\"\ntimeout = \"5 parsecs\"")
        .toml("[chain]\nmain = [\"retri\"]\n[policy.retry]\nplugin = \"retry\"\non-error = \"ignore\"");
    let (_directory, config) = written(&setup)?;
    for command in ["check", "run"] {
        let output = run(&[command, "--config", config.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""), "{said}");
        for wrong in ["endpoint = []", "\"127.0.0.1\" }", "service = \"user\"", "5 parsecs", "retri\"", "ignore"] {
            let place = format!("{}:{}:", config.display(), line_of(&config, wrong)?);
            assert!(said.contains(&place), "{command} does not name {place} ({wrong}):\n{said}");
        }
        assert!(said.matches("hint:").count() >= 6, "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    Ok(())
}

#[test]
fn check_tells_what_plugins_say_and_run_refuses_what_breaks_a_schema() -> Result {
    let good =
        |name: &str, plugin: &str, config: &str| format!("[policy.{name}]\nplugin = \"{plugin}\"\nconfig = {config}");
    let setup = Setup::new()
        .with_plugin("headers")
        .with_plugin("retry")
        .toml(&good("marker", "headers", "{ response = { sett = { a = \"b\" } } }"))
        .toml("[policy.again]\nplugin = \"retry\"\nconfig.max-attempts = \"many\"\nconfig.backoff = { kind = \"linear\" }");
    let (directory, config) = written(&setup)?;
    for command in ["check", "run"] {
        let output = run(&[command, "--config", config.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for wrong in ["sett", "max-attempts", "linear"] {
            let place = format!("{}:{}:", config.display(), line_of(&config, wrong)?);
            assert!(said.contains(&place), "{command} does not name {place} ({wrong}):\n{said}");
        }
        assert!(said.contains("hint: weir inspect shows the schema"), "{said}");
    }

    // Plugins that are missing or broken, also those that nobody uses: for `check` all of that is wrong.
    let setup = Setup::new()
        .with_plugin("headers")
        .toml(&good("a", "headers", "{}"))
        .toml(&good("b", "header", "{}"))
        .toml(&good("c", "broken", "{}"));
    let config = setup.write(directory.path())?;
    std::fs::write(directory.path().join("plugins/broken.wasm"), b"\0asm\x01\0\0\0")?;
    std::fs::write(directory.path().join("plugins/unused.wasm"), "nothing")?;
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let mut expected = String::new();
    write!(expected, "{}:{}:", config.display(), line_of(&config, "plugin = \"header\"")?)?;
    assert!(
        said.contains(&expected)
            && said.contains("there is no plugin \"header\"")
            && said.contains("hint: put header.wasm there"),
        "{said}"
    );
    assert!(
        said.contains("--target wasm32-wasip2") && said.contains("plugins/unused.wasm: not a WebAssembly component"),
        "{said}"
    );

    std::fs::remove_file(directory.path().join("plugins/unused.wasm"))?;
    let config = Setup::new().with_plugin("headers").toml(&good("a", "headers", "{}")).write(directory.path())?;
    std::fs::remove_file(directory.path().join("plugins/broken.wasm"))?;
    std::fs::remove_file(directory.path().join("plugins/retry.wasm"))?;
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
    assert!(
        text(&output.stdout).contains(": ok: 1 listeners, 0 services, 0 routes, 1 policies"),
        "{}",
        text(&output.stdout)
    );
    Ok(())
}

#[test]
fn inspect_says_what_a_component_is_or_why_it_is_none() -> Result {
    let chameleon = Chameleon::default();
    let inspected = |file: &Path| {
        let output = command().arg("inspect").arg(file).output().expect("weir starts");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = inspected(&plugins_directory().join("retry.wasm"));
    assert_eq!(code, Some(0));
    for part in [
        "retry 0.1.0",
        "digest",
        "describe, configure",
        "on-outcome",
        "weir:policy/random@0.1.0",
        "max-body",
        "\"max-attempts\"",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(inspected(&guests_directory().join("rogue.wasm")).1.contains("tick     every 50ms"));

    let bad = [
        ("core.wasm", b"\0asm\x01\0\0\0".to_vec(), "--target wasm32-wasip2"),
        ("noise.wasm", vec![7; 1000], "not a WebAssembly component"),
        (
            "newer.wasm",
            chameleon.of_contract("0.9.0"),
            "built for weir:policy@0.9.0, and this node speaks weir:policy@0.1.0",
        ),
        ("trap.wasm", chameleon.bytes("trap"), "`describe` failed"),
    ];
    for (name, bytes, said) in bad {
        let (code, out, error) = inspected(&chameleon.file(name, &bytes));
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains(name) && error.contains(said), "{error}");
    }
    let (code, _, error) = inspected(Path::new("nowhere.wasm"));
    assert!(code == Some(1) && error.contains("nowhere.wasm"), "{error}");
    Ok(())
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() -> Result {
    let (_directory, config) = written(&Setup::new())?;
    let retry = plugins_directory().join("retry.wasm");
    for arguments in
        [&["--help"][..], &["inspect", retry.to_str().unwrap()], &["check", "--config", config.to_str().unwrap()]]
    {
        let mut child = command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said)?;
        assert_eq!((child.wait()?.code(), &*said), (Some(0), ""), "{arguments:?}");
    }
    // And one who does not read errors: the code is what counts.
    let mut child = command().args(["inspect", "nowhere.wasm"]).stderr(Stdio::piped()).spawn()?;
    drop(child.stderr.take());
    assert_eq!(child.wait()?.code(), Some(1));
    Ok(())
}
