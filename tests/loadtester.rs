//! The load tester as a process with its flags: the programs of an image of one's own behind `--allow-shell`, and the tokens that its chart
//! mounts.
#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Prints itself and its arguments, a line each; `fail` among them ends it with 3.
const PROGRAM: &str = r#"#!/bin/sh
printf '%s\n' "${0##*/}" "$@"
for word in "$@"; do [ "$word" = fail ] && exit 3; done
exit 0
"#;

fn place(folder: &Path, program: &str) {
    let path = folder.join(program);
    fs::write(&path, PROGRAM).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder with these programs, and with a shell as each image has it.
fn image(programs: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for program in programs {
        place(folder.path(), program);
    }
    for program in ["sh", "bash", "head"] {
        let found = ["/bin", "/usr/bin", "/usr/local/bin"]
            .iter()
            .map(|place| Path::new(place).join(program))
            .find(|path| path.exists());
        symlink(found.unwrap(), folder.path().join(program)).unwrap();
    }
    folder
}

/// `serin loadtester`, with these programs and no others.
struct Tester {
    base: String,
    _process: Child,
}

impl Tester {
    async fn start(programs: &Path, flags: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Free at this moment; whoever else asks for any port gets another one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let port = port.unwrap().port();
        let process = Command::new(env!("CARGO_BIN_EXE_serin"))
            .args(["loadtester", "--gates=memory", "--bind-address=127.0.0.1"])
            .arg(format!("-port={port}"))
            .args(flags)
            .env("PATH", programs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let base = format!("http://127.0.0.1:{port}");
        let begun = Instant::now();
        while reqwest::get(format!("{base}/healthz")).await.is_err() {
            assert!(begun.elapsed() < Duration::from_mins(1), "it did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            base,
            _process: process,
        }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let asked = reqwest::Client::new().post(format!("{}{path}", self.base));
        let answer = asked.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// As the hook of a canary asks.
    async fn task(&self, kind: &str, cmd: &str) -> (u16, String) {
        let metadata = json!({"type": kind, "cmd": cmd, "returnCmdOutput": "true"});
        let body = json!({"name": "app", "namespace": "test", "phase": "Progressing", "metadata": metadata});
        self.post("/", &body).await
    }
}

/// Type, command, and what the program prints.
const TASKS: [(&str, &str, &str); 5] = [
    (
        "helm",
        "test app --timeout '3m 1s' --namespace=test",
        "helm\ntest\napp\n--timeout\n3m 1s\n--namespace=test\n",
    ),
    // Images of Helm 3 call it helm.
    ("helmv3", "test app", "helm\ntest\napp\n"),
    (
        "kubectl",
        r#"get pods -o jsonpath="{.items[*]}""#,
        "kubectl\nget\npods\n-o\njsonpath={.items[*]}\n",
    ),
    (
        "bash",
        "bats --tap /tests/acceptance.bats",
        "bats\n--tap\n/tests/acceptance.bats\n",
    ),
    (
        "bash",
        "x=$((1 + 1)); kubectl get pods | head -n $x",
        "kubectl\nget\n",
    ),
];

#[tokio::test]
async fn with_leave_the_programs_of_an_image_run_tests() {
    let folder = image(&["helm", "kubectl", "bats"]);
    let tester = Tester::start(folder.path(), &["--allow-shell"]).await;
    for (kind, cmd, printed) in TASKS {
        let answer = tester.task(kind, cmd).await;
        assert_eq!(answer, (200, printed.to_owned()), "{kind}: {cmd}");
    }
    for (kind, cmd) in [
        ("helm", "fail"),
        ("helmv3", "fail"),
        ("kubectl", "fail"),
        ("bash", "bats fail"),
    ] {
        let (status, text) = tester.task(kind, cmd).await;
        assert_eq!(status, 500, "{kind}: {text}");
        assert!(text.ends_with("fail\nexit status: 3\n"), "{kind}: {text}");
    }
    // Load by a program that is not built in, in the background.
    let (status, text) = tester.task("cmd", "bats /tests/load.bats").await;
    assert_eq!((status, text.as_str()), (202, "started sh\n"));
    // Arguments of one program are no line for a shell.
    let (status, text) = tester.task("kubectl", "get pods; rm -rf /").await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("expected arguments of one program"), "{text}");
    // Images of Flagger's load tester have both.
    place(folder.path(), "helmv3");
    let answer = tester.task("helmv3", "test app").await;
    assert_eq!(answer, (200, "helmv3\ntest\napp\n".to_owned()));
    fs::remove_file(folder.path().join("kubectl")).unwrap();
    let (status, text) = tester.task("kubectl", "get pods").await;
    assert_eq!(status, 403, "{text}");
    assert!(
        text.contains("the image of the load tester has no kubectl"),
        "{text}"
    );
}

#[tokio::test]
async fn without_leave_none_of_them_is_run() {
    let folder = image(&["helm", "helmv3", "kubectl", "bats"]);
    for flags in [&[][..], &["--allow-shell=false"]] {
        let tester = Tester::start(folder.path(), flags).await;
        for (kind, cmd, _) in TASKS {
            let (status, text) = tester.task(kind, cmd).await;
            assert_eq!(status, 403, "{kind}: {text}");
            assert!(
                text.contains("the load tester was started without --allow-shell"),
                "{kind}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn the_tokens_of_the_chart_are_asked_for() {
    // As the kubelet mounts the Secret of `tokens.secretName`.
    let folder = tempfile::tempdir().unwrap();
    let mounted = folder.path().join("..2026_11_30");
    fs::create_dir(&mounted).unwrap();
    fs::write(mounted.join("test"), "sesame\n").unwrap();
    symlink("..2026_11_30", folder.path().join("..data")).unwrap();
    symlink("..data/test", folder.path().join("test")).unwrap();
    let flag = format!("--token-dir={}", folder.path().display());
    let tester = Tester::start(folder.path(), &[&flag]).await;
    let gate = |namespace: &str, token: &str| json!({"name": "app", "namespace": namespace, "metadata": {"token": token}});
    for (namespace, token, status) in [
        ("test", "sesame", 202),
        ("test", "guess", 401),
        ("test", "", 401),
        ("shop", "sesame", 401),
        ("..data", "sesame", 401),
    ] {
        let answer = tester.post("/gate/open", &gate(namespace, token)).await;
        assert_eq!(answer.0, status, "{namespace} {token}: {}", answer.1);
    }
    let answer = tester.post("/gate/check", &gate("test", "sesame")).await;
    assert_eq!(answer, (200, "Approved".to_owned()));
}
