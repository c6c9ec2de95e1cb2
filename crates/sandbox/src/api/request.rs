//! Reading a request: path, query, headers.

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::access::User;

/// A request with its body read.
#[derive(Debug)]
pub(crate) struct Request {
    pub method: Method,
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: User,
    /// What the answer is to warn of.
    pub warnings: RefCell<Vec<String>>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The media type of the body, without parameters.
    pub(crate) fn content_type(&self) -> &str {
        self.header("content-type")
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
    }

    /// The field manager: the parameter, or what stands before the slash in the user agent.
    pub(crate) fn manager(&self) -> String {
        match self.query.get("fieldManager") {
            Some(manager) if !manager.is_empty() => manager.to_owned(),
            _ => self
                .header("user-agent")
                .split('/')
                .next()
                .unwrap_or_default()
                .chars()
                .filter(|c| !c.is_control())
                .take(128)
                .collect(),
        }
    }

    /// Whom the user wants to act as, if anybody.
    pub(crate) fn impersonated(&self) -> Option<User> {
        let name = self.header("impersonate-user");
        if name.is_empty() {
            return None;
        }
        let mut groups: Vec<_> = self
            .headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect();
        if groups.is_empty()
            && let Some(account) = name.strip_prefix("system:serviceaccount:")
        {
            groups = User::account_groups(account.split(':').next().unwrap_or_default());
        }
        let everybody = if name == "system:anonymous" {
            "system:unauthenticated"
        } else {
            "system:authenticated"
        };
        if !groups.iter().any(|group| group == everybody) {
            groups.push(everybody.to_owned());
        }
        Some(User {
            name: name.to_owned(),
            groups,
        })
    }
}

/// The query parameters, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Query {
        Query(
            query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set: `watch`, `watch=1`, `watch=true`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "false" | "0"))
    }
}

/// Undoes percent-encoding; what is no valid encoding stays as it is.
pub(crate) fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(code) = code {
            bytes.push(code);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a path under `/api` or `/apis` names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub plural: String,
    pub name: String,
    /// The subresource and what follows it.
    pub subresource: String,
    /// By the old path prefix `/watch/`.
    pub watch: bool,
}

impl Target {
    /// Reads the path behind group and version.
    pub(crate) fn parse(group: &str, version: &str, rest: &[String]) -> Option<Target> {
        let mut target = Target {
            group: group.to_owned(),
            version: version.to_owned(),
            ..Target::default()
        };
        let mut rest = rest;
        if let [first, tail @ ..] = rest
            && first == "watch"
        {
            target.watch = true;
            rest = tail;
        }
        if let [first, namespace, plural, tail @ ..] = rest
            && first == "namespaces"
            && !(group.is_empty() && tail.is_empty() && matches!(plural.as_str(), "status" | "finalize"))
        {
            target.namespace.clone_from(namespace);
            target.plural.clone_from(plural);
            rest = tail;
        } else {
            let [plural, tail @ ..] = rest else { return None };
            target.plural.clone_from(plural);
            rest = tail;
        }
        if let [name, tail @ ..] = rest {
            target.name.clone_from(name);
            target.subresource = tail.join("/");
        }
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(group: &str, path: &str, expect: [&str; 4]) {
        let parts: Vec<_> = path.split('/').map(decode).collect();
        let target = Target::parse(group, "v1", &parts).expect("a target");
        assert_eq!(
            [
                &target.namespace,
                &target.plural,
                &target.name,
                &target.subresource
            ],
            expect,
            "{path}"
        );
    }

    #[test]
    fn paths() {
        check("", "namespaces", ["", "namespaces", "", ""]);
        check("", "namespaces/a", ["", "namespaces", "a", ""]);
        check("", "namespaces/a/status", ["", "namespaces", "a", "status"]);
        check("", "namespaces/a/finalize", ["", "namespaces", "a", "finalize"]);
        check("", "namespaces/a/pods", ["a", "pods", "", ""]);
        check(
            "",
            "namespaces/a/services/b/proxy/x/y",
            ["a", "services", "b", "proxy/x/y"],
        );
        check("", "pods", ["", "pods", "", ""]);
        check(
            "apps",
            "namespaces/a/deployments/b/scale",
            ["a", "deployments", "b", "scale"],
        );
        check(
            "rbac.authorization.k8s.io",
            "clusterroles/system%3Anode",
            ["", "clusterroles", "system:node", ""],
        );
        check("", "watch/namespaces/a/pods", ["a", "pods", "", ""]);
    }

    #[test]
    fn queries() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=true&dryRun=All&x=a+b&bad=%zz");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.flag("watch"));
        assert!(!query.flag("missing"));
        assert_eq!(query.get("x"), Some("a b"));
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
