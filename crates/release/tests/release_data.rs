//! The embedded release data holds together.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use object::ObjectKey;
use release::{Recipe, Releases, Support, UpgradePath, lint};
use serde_json::json;

#[test]
fn releases_have_no_loose_ends() {
    let releases = Releases::embedded().unwrap();
    assert_eq!(
        releases
            .latest()
            .map(|release| release.version.to_string())
            .as_deref(),
        Some("v3.3.1")
    );
    for release in releases.iter() {
        assert_eq!(lint(release), [""; 0], "{}", release.version);
        let manifests = common::manifests(release, &common::inputs(release, &json!({})));
        assert!(manifests.is_sorted_by_key(|manifest| manifest.phase));
    }
}

#[test]
fn what_a_release_upgrades_and_runs_on() {
    let release = common::release("v3.3.1");
    let check = |from: &str, expect: UpgradePath| {
        assert_eq!(release.path_from(&from.parse().unwrap()), expect, "{from}");
    };
    check("v3.2.0", UpgradePath::Supported);
    check("v3.2.1", UpgradePath::Supported);
    check("v3.3.0", UpgradePath::Supported);
    check("v3.3.1", UpgradePath::Same);
    check("v3.4.0", UpgradePath::Newer);
    let first = "upgrade to v3.2.x with the installer of that release first";
    check("v3.1.1", UpgradePath::TooOld(first.into()));
    let check = |version: &str, expect: Support| {
        assert_eq!(
            release.kubernetes_support(&version.parse().unwrap()),
            expect,
            "{version}"
        );
    };
    check("v1.18.20", Support::Unsupported);
    check("v1.19.0", Support::Supported);
    check("v1.22.17-eks-48e63af", Support::Supported);
    check("v1.23.0", Support::Experimental);
    check("v1.24.0", Support::Unsupported);
}

#[test]
fn what_must_be_seen_well() {
    let release = common::release("v3.3.1");
    let component = release.component(common::COMPONENT).unwrap();
    let target = component.targets(&common::manifests(
        &release,
        &common::inputs(&release, &json!({})),
    ));
    let names = |keys: &[ObjectKey]| keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        names(&target.workloads),
        ["ks-apiserver", "ks-console", "ks-controller-manager"]
    );
    assert_eq!(target.custom_resource_definitions.len(), 31);
    assert_eq!(names(&target.webhook_services), ["ks-controller-manager"]);
}

#[test]
fn secrets_are_made_as_their_readers_want_them() {
    let release = common::release("v3.3.1");
    let component = release.component(common::COMPONENT).unwrap();
    let [secret, certificate] = component.secrets.as_slice() else {
        panic!("two secrets")
    };
    let makes: Vec<(&str, Option<&str>, &Recipe)> = secret
        .keys
        .iter()
        .map(|key| (key.name.as_str(), key.setting.as_deref(), &key.make))
        .collect();
    let Recipe::Jwt { signed_with, claims } = makes[1].2 else {
        panic!("a token")
    };
    assert_eq!(signed_with, "secret");
    assert_eq!(
        serde_json::to_string(claims).unwrap(),
        r#"{"email":"admin@kubesphere.io","username":"admin","token_type":"static_token"}"#
    );
    assert_eq!(
        [makes[0], makes[2]],
        [
            (
                "secret",
                Some("authentication.jwtSecret"),
                &Recipe::Alphanumeric { length: 32 }
            ),
            (
                "initAdminPassword",
                Some("authentication.adminPassword"),
                &Recipe::Alphanumeric { length: 16 }
            ),
        ]
    );
    let certificate = certificate.certificate.as_ref().unwrap();
    assert_eq!(
        certificate.dns_names,
        [
            "ks-controller-manager.kubesphere-system",
            "ks-controller-manager.kubesphere-system.svc"
        ]
    );
}
