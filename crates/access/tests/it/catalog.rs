//! The releases' own data.

use crate::common::RELEASES;
use access::{AccessFile, Catalog, CatalogError, Grants, Level};
use object::Object;

/// The catalogs of the releases that are upgraded from.
fn earlier() -> [(&'static str, &'static Catalog); 3] {
    [
        ("v3.2.0", &RELEASES.v3_2_0),
        ("v3.2.1", &RELEASES.v3_2_1),
        ("v3.3.0", &RELEASES.v3_3_0),
    ]
}

fn count(catalog: &Catalog, kind: &str) -> usize {
    catalog.objects().filter(|object| object.kind() == kind).count()
}

#[test]
fn every_object_is_there() {
    let kinds = [
        "GlobalRole",
        "GlobalRoleBinding",
        "WorkspaceRole",
        "ClusterRole",
        "RoleBase",
        "WorkspaceTemplate",
        "Workspace",
    ];
    let check = |catalog: &Catalog, expect: [usize; 7]| {
        assert_eq!(kinds.map(|kind| count(catalog, kind)), expect);
        assert_eq!(catalog.objects().count(), expect.iter().sum::<usize>());
    };
    check(&RELEASES.v3_2_0, [19, 4, 19, 27, 37, 1, 1]);
    check(&RELEASES.v3_2_1, [19, 4, 19, 27, 39, 1, 1]);
    check(&RELEASES.v3_3_0, [19, 4, 19, 33, 43, 1, 1]);
    check(&RELEASES.v3_3_1, [19, 4, 19, 33, 43, 1, 1]);
}

/// What a migrated role no longer grants is then only what is revoked.
#[test]
fn no_template_that_stays_gives_less_than_before() {
    let policy = &RELEASES.policy;
    for (version, catalog) in earlier() {
        for level in Level::ALL {
            for old in catalog.templates(level) {
                if policy.is_revoked(level, &old.name) {
                    continue;
                }
                let name = policy.renamed(level, &old.name).unwrap_or(&old.name);
                let new = RELEASES.v3_3_1.template(level, name);
                let new =
                    new.unwrap_or_else(|| panic!("{version} {level:?} {name} is gone without a new name"));
                let lost = Grants::of(&old.rules).difference(&Grants::of(&new.rules));
                assert!(
                    lost.is_empty(),
                    "{version} {level:?} {name} no longer gives {lost:?}"
                );
            }
        }
    }
}

#[test]
fn the_policy_is_about_what_is_there() {
    let policy = &RELEASES.policy;
    for (level, names) in &policy.revoked_templates {
        for name in names {
            let template = RELEASES.v3_2_1.template(*level, name);
            assert!(template.is_some_and(|t| !t.rules.is_empty()), "{level:?} {name}");
        }
    }
    for role in &policy.removed_roles {
        assert!(RELEASES.v3_2_1.role(Level::Platform, &role.name, None).is_some());
        assert!(RELEASES.v3_3_1.role(Level::Platform, &role.name, None).is_none());
    }
    for (level, names) in &policy.removed_templates {
        for name in names {
            assert!(RELEASES.v3_2_1.template(*level, name).is_some(), "{name}");
            assert!(RELEASES.v3_3_1.template(*level, name).is_none(), "{name}");
        }
    }
    // Every built-in role of the release is named as one.
    for (level, name) in [
        (Level::Platform, "platform-self-provisioner"),
        (Level::Workspace, "ws-self-provisioner"),
        (Level::Project, "operator"),
        (Level::DevopsProject, "viewer"),
    ] {
        assert!(policy.is_built_in(level, name, Some("ws")), "{name}");
        let role = RELEASES.v3_3_1.role(level, name, Some("ws"));
        assert!(role.is_some_and(|role| !role.is_template), "{name}");
    }
}

#[test]
fn a_template_means_what_its_scope_says() {
    let resources = |level| {
        let template = RELEASES
            .v3_3_1
            .template(level, "role-template-view-basic")
            .unwrap();
        template.rules[0].resources.join(",")
    };
    assert!(resources(Level::Project).starts_with("namespaces,"));
    assert_eq!(resources(Level::DevopsProject), "devops,devopsprojects");
    let words = |level, name| RELEASES.v3_2_1.template(level, name).unwrap().words();
    assert_eq!(
        words(Level::Platform, "role-template-manage-users"),
        "Access Control: Users Management"
    );
    assert_eq!(
        words(Level::Platform, "role-template-view-basic"),
        "role-template-view-basic"
    );
}

/// Annotations are kept byte for byte, broken ones too.
#[test]
fn annotations_are_as_released() {
    let object = |kind: &str, name: &str| -> &Object {
        let mut objects = RELEASES.v3_3_1.objects();
        objects.find(|o| o.kind() == kind && o.name() == name).unwrap()
    };
    let rego = object("GlobalRole", "authenticated").annotation("iam.kubesphere.io/rego-override");
    let rego = rego.unwrap();
    assert_eq!((rego.len(), rego.lines().count()), (636, 24));
    assert!(rego.starts_with("package authz\ndefault allow = false\n") && rego.ends_with("input.Verb\n}"));
    let broken = object("ClusterRole", "role-template-manage-alerting-messages");
    let broken = broken.annotation("iam.kubesphere.io/dependencies").unwrap();
    assert!(serde_json::from_str::<Vec<String>>(broken).is_err(), "{broken}");
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let check = |text: &str, base: Option<&Catalog>, expect: &str| {
        let file: AccessFile = serde_saphyr::from_str(text).unwrap();
        let error: CatalogError = file.into_catalog(base).unwrap_err();
        assert_eq!(error.to_string(), expect);
    };
    let role = "{apiVersion: iam.kubesphere.io/v1alpha2, kind: GlobalRole, metadata: {name: a}, rules: []}";
    check(
        &format!("objects: [{role}, {role}]"),
        None,
        "GlobalRole a is there twice",
    );
    check("base: v1\nobjects: []", None, "the base v1 is not given");
    check(
        "base: v3.2.1\nwithout: [{kind: GlobalRole, name: a}]\nobjects: []",
        Some(&RELEASES.v3_2_1),
        "there is no GlobalRole a in the base",
    );
    check(
        "policy: {removedRoles: [{kind: GlobalRole, name: a, replacement: b}]}\nobjects: []",
        None,
        "the policy names b, which is not in the catalog",
    );
    check(
        "objects: [{apiVersion: iam.kubesphere.io/v1alpha2, kind: RoleBase, metadata: {name: a}}]",
        None,
        "RoleBase a holds no role",
    );
}
