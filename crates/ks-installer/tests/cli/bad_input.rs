//! Input that is no good: one error that names the thing, exit status 2, never a panic.

use crate::{
    installer::{Installer, serve},
    support,
};

#[test]
fn a_cluster_that_cannot_be_reached() {
    let installer = Installer::new();
    let kubeconfig = |server: &str| {
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\ncurrent-context: c\n"
        )
    };
    // Nothing listens there: the port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = format!("https://127.0.0.1:{port}");
    let path = installer.write("down", kubeconfig(&server));
    for command in [
        &["preflight"][..],
        &["plan"],
        &["status"],
        &["backup"],
        &["rehearse"],
        &["upgrade", "--yes"],
    ] {
        let mut arguments = vec!["--kubeconfig", path.as_str()];
        arguments.extend(command);
        installer.check_error(&arguments, &[&format!("127.0.0.1:{port}"), "hint: "]);
        arguments.extend(["-o", "json"]);
        installer.check_error(&arguments, &["127.0.0.1"]);
    }
    let path = installer.write("server", kubeconfig("not a url"));
    installer.check_error(&["preflight", "--kubeconfig", &path], &["url"]);
}

#[test]
fn a_kubeconfig_that_is_none() {
    let installer = Installer::new();
    installer.check_error(&["preflight"], &["kubeconfig"]);
    installer.check_error(&["preflight", "--kubeconfig", "gone"], &["gone"]);
    let path = installer.write("text", "not: [a, kubeconfig");
    installer.check_error(&["preflight", "--kubeconfig", &path], &[&path]);
    let path = installer.write("empty", "");
    installer.check_error(&["preflight", "--kubeconfig", &path], &["no contexts"]);
}

#[test]
fn a_context_or_token_that_is_wrong() {
    let served = serve(support::tenants());
    let installer = &served.installer;
    let path = installer.path("kubeconfig").display().to_string();
    installer.check_error(
        &["preflight", "--kubeconfig", &path, "--context", "elsewhere"],
        &["elsewhere", "hint: "],
    );
    let config = served.kubeconfig();
    let token = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "))
        .unwrap();
    let path = installer.write("wrong", config.replace(token, "wrong-token-of-somebody"));
    for command in ["preflight", "status", "backup", "rehearse"] {
        installer.check_error(&[command, "--kubeconfig", &path], &["hint: "]);
        let ended = installer.run(&[command, "--kubeconfig", &path, "-vv"]);
        assert!(!ended.err.contains("wrong-token-of-somebody"), "the token shows");
    }
    assert_eq!(served.writes(), 0);
}

#[test]
fn a_dump_that_is_none() {
    let installer = Installer::new();
    let good = std::fs::read(support::tenants_file()).unwrap();
    let check = |name: &str, contents: &[u8], words: &[&str]| {
        installer.write(name, contents);
        let mut all = vec![name];
        all.extend(words);
        installer.check_error(&["rehearse", "--from", name], &all);
        installer.check_error(&["rehearse", "--from", name, "-o", "json"], &all);
    };
    check("cut.zst", &good[..good.len() / 2], &["line"]);
    let text = zstd::decode_all(good.as_slice()).unwrap();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').take(3).collect();
    let whole = |count: usize| lines[..count].join(&b'\n');
    let mut cut = whole(2);
    cut.push(b'\n');
    cut.extend(&lines[2][..lines[2].len() / 2]);
    check("cut.ndjson", &cut, &["line 3", "middle of an object"]);
    let mut broken = whole(1);
    broken.extend(b"\n{\"kind\": nonsense}\n");
    broken.extend(lines[2]);
    check("broken.ndjson", &broken, &["line 2", "not JSON"]);
    check("list.ndjson", b"[1, 2]\n", &["line 1"]);
    check(
        "nameless.ndjson",
        b"{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{}}\n",
        &["line 1", "name"],
    );
    check("text.txt", b"\x00\x01\x02 hello", &[]);
    check("empty.ndjson", b"", &["no objects"]);
    check("blank.ndjson", b"\n\n", &["no objects"]);
    installer.check_error(&["rehearse", "--from", "gone.ndjson"], &["gone.ndjson"]);
    installer.check_error(&["rehearse", "--from", "."], &["."]);
}

#[test]
fn a_dump_with_a_kind_that_nothing_defines() {
    let installer = Installer::new();
    let mut text = zstd::decode_all(std::fs::read(support::tenants_file()).unwrap().as_slice()).unwrap();
    text.extend(b"\n{\"apiVersion\":\"example.com/v1\",\"kind\":\"Gizmo\",\"metadata\":{\"name\":\"g\"}}\n");
    installer.write("unknown.ndjson", &text);
    installer.check_error(
        &["rehearse", "--from", "unknown.ndjson"],
        &["unknown.ndjson", "Gizmo"],
    );
}

#[test]
fn the_same_object_twice() {
    let installer = Installer::new();
    let mut text = zstd::decode_all(std::fs::read(support::tenants_file()).unwrap().as_slice()).unwrap();
    let first: Vec<u8> = text.split(|byte| *byte == b'\n').next().unwrap().to_vec();
    text.extend(b"\n");
    text.extend(first);
    installer.write("twice.ndjson", &text);
    installer.check_error(
        &["rehearse", "--from", "twice.ndjson"],
        &["twice.ndjson", "twice"],
    );
}

#[test]
fn a_dump_without_nodes_needs_to_be_told_the_kubernetes_version() {
    let installer = Installer::new();
    let objects = support::read(&support::tenants_file());
    let lines: Vec<String> = objects
        .iter()
        .filter(|object| object["kind"] != "Node")
        .map(ToString::to_string)
        .collect();
    installer.write("nodeless.ndjson", lines.join("\n"));
    installer.check_error(
        &["rehearse", "--from", "nodeless.ndjson"],
        &["nodeless.ndjson", "--kubernetes-version"],
    );
}

#[test]
fn a_kubernetes_version_that_is_none() {
    let installer = Installer::new();
    let from = support::tenants_file().display().to_string();
    let arguments = ["rehearse", "--from", &from, "--kubernetes-version", "new"];
    installer.check_error(&arguments, &["new"]);
    for version in ["v1.18.20", "v1.26"] {
        let arguments = ["sandbox", "--kubernetes-version", version];
        installer.check_error(&arguments, &["cannot be played", "1.19 to 1.25"]);
    }
}

#[test]
fn arguments_that_are_none() {
    let installer = Installer::new();
    for arguments in [
        &["upgrade", "--nonsense"][..],
        &["nonsense"],
        &["plan", "-o", "xml"],
        &[],
    ] {
        let ended = installer.run(arguments);
        assert_eq!(ended.code, 2, "{arguments:?}");
        let says = ["--help", "Usage"].iter().any(|word| ended.err.contains(word));
        assert!(says, "{arguments:?}: {}", ended.err);
    }
}
