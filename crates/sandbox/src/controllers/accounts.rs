//! ServiceAccounts and their tokens, which are Secrets up to Kubernetes 1.23.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::access::User;
use crate::controllers::{create, write_status};
use crate::json::{child, is_deleting, list, name, namespace, object, text, text_at, uid};
use crate::status::Result;
use crate::store::{Key, State};
use crate::transaction::Transaction;
use crate::write::Writer;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// Gives a new account its token.
pub(crate) fn reconcile(transaction: &mut Transaction, key: &Key, old: Option<&Value>) -> Result<()> {
    let Some(account) = transaction.state.get(key).cloned() else {
        return old.map_or(Ok(()), |gone| drop_tokens(transaction, gone));
    };
    if transaction.builtins.minor >= 24 || is_deleting(&account) || !list(&account, "secrets").is_empty() {
        return Ok(());
    }
    let secrets = transaction.builtin("", "secrets")?;
    let secret_name = format!("{}-token-{}", name(&account), transaction.state.draw_suffix());
    let data = token(transaction, &account);
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name,
            "namespace": namespace(&account),
            "annotations": { NAME: name(&account), UID: uid(&account) },
        },
        "type": TYPE,
        "data": data,
    });
    create(transaction, &secrets, secret, Writer::CONTROLLER)?;
    let kind = transaction.builtin("", "serviceaccounts")?;
    let mut next = Value::clone(&account);
    object(&mut next).insert("secrets".into(), json!([{ "name": secret_name }]));
    write_status(transaction, &kind, &account, next, Writer::CONTROLLER);
    Ok(())
}

/// Whose token this is, if a Secret of an account that is there holds it.
pub(crate) fn owner(state: &State, token: &str) -> Option<User> {
    let token = STANDARD.encode(token);
    let (_, secret) = state
        .collection("secrets")?
        .iter()
        .find(|(_, secret)| text(secret, "type") == TYPE && text_at(secret, "/data/token") == token)?;
    let annotations = secret.pointer("/metadata/annotations")?;
    let (space, account) = (namespace(secret), text(annotations, NAME));
    let found = state.find("serviceaccounts", space, account)?;
    (uid(found) == text(annotations, UID)).then(|| User::account(space, account))
}

/// The data of a token Secret. The token says whose it is, and is as hard to guess as the seed of the cluster.
fn token(transaction: &Transaction, account: &Value) -> Value {
    // Drawn from a copy, so that the names and UIDs that come next do not depend on tokens; and hashed, so that they do not
    // tell the token either.
    let mut ahead = transaction.state.clone();
    let drawn = Sha256::digest(format!("token {:x} {:x}", ahead.draw(), ahead.draw()));
    let drawn = URL_SAFE_NO_PAD.encode(&drawn[..16]);
    let token = format!("sandbox.{}.{}.{drawn}", namespace(account), name(account));
    json!({
        "ca.crt": STANDARD.encode(crate::authority::certificate()),
        "namespace": STANDARD.encode(namespace(account)),
        "token": STANDARD.encode(token),
    })
}

/// Fills in a token Secret that was made by hand, and drops one whose account is not there.
pub(crate) fn reconcile_secret(transaction: &mut Transaction, key: &Key) -> Result<()> {
    let Some(secret) = transaction.state.get(key).cloned() else {
        return Ok(());
    };
    if text(&secret, "type") != TYPE || secret.pointer("/data/token").is_some() {
        return Ok(());
    }
    let account = secret
        .pointer("/metadata/annotations")
        .map_or("", |all| text(all, NAME))
        .to_owned();
    let Some(account) = transaction
        .state
        .find("serviceaccounts", key.namespace(), &account)
        .cloned()
    else {
        transaction.remove(key);
        return Ok(());
    };
    let kind = transaction.builtin("", "secrets")?;
    let mut next = Value::clone(&secret);
    if let Value::Object(data) = token(transaction, &account) {
        child(&mut next, "data").extend(data);
    }
    let annotations = child(&mut next, "metadata")
        .entry("annotations")
        .or_insert_with(|| json!({}));
    object(annotations).insert(UID.into(), uid(&account).into());
    write_status(transaction, &kind, &secret, next, Writer::CONTROLLER);
    Ok(())
}

/// The tokens of an account go with it.
fn drop_tokens(transaction: &mut Transaction, account: &Value) -> Result<()> {
    let secrets = transaction.builtin("", "secrets")?;
    let gone: Vec<_> = transaction
        .state
        .objects_of(&secrets)
        .range(namespace(account), None)
        .filter(|(_, secret)| {
            let annotations = secret.pointer("/metadata/annotations");
            text(secret, "type") == TYPE && annotations.is_some_and(|all| text(all, UID) == uid(account))
        })
        .map(|(_, secret)| Key::of(&secrets, secret))
        .collect();
    for key in gone {
        transaction.remove(&key);
    }
    Ok(())
}
