//! Waiting for an object to become as it should be.

use std::time::Duration;

use object::{Object, ObjectKey};
use tokio::time::Instant;

use crate::{Cluster, ErrorClass, ReadError};

/// How far an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Met,
    /// Not yet; the text says what is awaited.
    Waiting(String),
    /// Waiting will not help; the text says why.
    Failed(String),
}

/// How long, and how often it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub deadline: Duration,
    /// The first pause between two looks; each further one is twice as long.
    pub first: Duration,
    pub longest: Duration,
}

impl Patience {
    /// Looks after 50 ms, and later once a second.
    pub fn until(deadline: Duration) -> Self {
        Self {
            deadline,
            first: Duration::from_millis(50),
            longest: Duration::from_secs(1),
        }
    }
}

/// Why a wait ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("{object} is not ready after {} s: {progress}", .after.as_secs())]
    Deadline {
        object: ObjectKey,
        after: Duration,
        progress: String,
    },
    #[error("{object}: {reason}")]
    Failed { object: ObjectKey, reason: String },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Looks at an object until `condition` is met. It gets `None` while the object does not exist. `listen` hears
/// of every change of what is awaited. May be dropped at any moment.
///
/// # Errors
/// The deadline passed, the condition cannot be met any more, or the caller may not read the object. That the API
/// server is away for a while is no error.
pub async fn wait(
    cluster: &Cluster,
    key: &ObjectKey,
    patience: Patience,
    condition: impl Fn(Option<&Object>) -> Progress,
    listen: impl FnMut(&str),
) -> Result<Option<Object>, WaitError> {
    poll(key, patience, listen, async || {
        let object = cluster.get(key).await?;
        Ok((condition(object.as_ref()), object))
    })
    .await
}

/// Waits until the pods of a workload are gone. The workload itself may be gone too.
///
/// # Errors
/// See [`wait`].
pub async fn wait_for_no_pods(
    cluster: &Cluster,
    workload: &ObjectKey,
    patience: Patience,
    listen: impl FnMut(&str),
) -> Result<(), WaitError> {
    poll(workload, patience, listen, async || {
        let Some(object) = cluster.get(workload).await? else {
            return Ok((Progress::Met, ()));
        };
        // A workload without a selector would select everything.
        let Some(selector) = selector_of(&object) else {
            return Ok((Progress::Met, ()));
        };
        let pods = cluster
            .list("", "Pod", workload.namespace.as_deref(), Some(&selector))
            .await?;
        let progress = match pods.as_slice() {
            [] => Progress::Met,
            [pod] => Progress::Waiting(format!("pod {} is still there", pod.name())),
            [pod, ..] => Progress::Waiting(format!(
                "{} pods are still there, among them {}",
                pods.len(),
                pod.name()
            )),
        };
        Ok((progress, ()))
    })
    .await
}

async fn poll<T>(
    key: &ObjectKey,
    patience: Patience,
    mut listen: impl FnMut(&str),
    look: impl AsyncFn() -> Result<(Progress, T), ReadError>,
) -> Result<T, WaitError> {
    let started = Instant::now();
    let until = started + patience.deadline;
    let mut pause = patience.first;
    let mut told = String::new();
    loop {
        let awaited = match look().await {
            Ok((Progress::Met, value)) => return Ok(value),
            Ok((Progress::Failed(reason), _)) => {
                return Err(WaitError::Failed {
                    object: key.clone(),
                    reason,
                });
            }
            Ok((Progress::Waiting(awaited), _)) => awaited,
            Err(error) if !error.class().is_transient() && *error.class() != ErrorClass::Expired => {
                return Err(error.into());
            }
            Err(error) => error.to_string(),
        };
        if awaited != told {
            listen(&awaited);
            told.clone_from(&awaited);
        }
        let now = Instant::now();
        if now >= until {
            return Err(WaitError::Deadline {
                object: key.clone(),
                after: patience.deadline,
                progress: awaited,
            });
        }
        tokio::time::sleep(pause.min(until - now)).await;
        pause = (pause * 2).min(patience.longest);
    }
}

/// The label selector of a workload as a query has it.
pub fn selector_of(workload: &Object) -> Option<String> {
    let selector = workload.get("/spec/selector")?;
    let mut terms = Vec::new();
    for (name, value) in selector
        .get("matchLabels")
        .and_then(|l| l.as_object())
        .into_iter()
        .flatten()
    {
        terms.push(format!("{name}={}", value.as_str()?));
    }
    for expression in selector
        .get("matchExpressions")
        .and_then(|e| e.as_array())
        .into_iter()
        .flatten()
    {
        let key = expression.get("key")?.as_str()?;
        let values = || -> Option<String> {
            let values: Option<Vec<_>> = expression
                .get("values")?
                .as_array()?
                .iter()
                .map(|v| v.as_str())
                .collect();
            Some(values?.join(","))
        };
        terms.push(match expression.get("operator")?.as_str()? {
            "In" => format!("{key} in ({})", values()?),
            "NotIn" => format!("{key} notin ({})", values()?),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use serde_json::{Value, json};

    use super::*;
    use crate::Failure;

    fn mk_key() -> ObjectKey {
        ObjectKey::namespaced("apps", "Deployment", "n", "a")
    }

    /// What a look finds.
    #[derive(Clone)]
    enum Look {
        Is(Progress),
        Cannot(ErrorClass),
    }

    fn waiting(text: &str) -> Look {
        Look::Is(Progress::Waiting(text.into()))
    }

    /// Waits a minute while one look after the other is told, the last one forever. Returns how often was looked,
    /// what was heard, what came out, and after how long.
    async fn run(looks: &[Look]) -> (usize, Vec<String>, String, Duration) {
        let heard = RefCell::new(Vec::new());
        let count = Cell::new(0);
        let started = Instant::now();
        let result = poll(
            &mk_key(),
            Patience::until(Duration::from_mins(1)),
            |text| heard.borrow_mut().push(text.to_owned()),
            async || {
                count.set(count.get() + 1);
                match looks[(count.get() - 1).min(looks.len() - 1)].clone() {
                    Look::Is(progress) => Ok((progress, count.get())),
                    Look::Cannot(class) => Err(ReadError {
                        what: "a".into(),
                        failure: Failure::new(class, "no"),
                    }),
                }
            },
        )
        .await;
        let result = result.map_or_else(|error| error.to_string(), |value| value.to_string());
        (count.get(), heard.into_inner(), result, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn tells_what_is_awaited_and_returns_what_was_read() {
        let looks = [
            waiting("0 of 2"),
            waiting("0 of 2"),
            waiting("1 of 2"),
            Look::Is(Progress::Met),
        ];
        let (_, heard, result, took) = run(&looks).await;
        assert_eq!(
            (heard, result.as_str()),
            (vec!["0 of 2".to_owned(), "1 of 2".to_owned()], "4")
        );
        assert_eq!(took, Duration::from_millis(50 + 100 + 200));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_at_the_deadline_with_the_reason() {
        let (looks, _, result, took) = run(&[waiting("1 of 2 ready")]).await;
        assert_eq!(result, "Deployment n/a is not ready after 60 s: 1 of 2 ready");
        assert_eq!(took, Duration::from_mins(1));
        assert!(looks < 70, "{looks} looks");
    }

    #[tokio::test(start_paused = true)]
    async fn outlasts_an_api_server_that_is_away() {
        let (_, heard, result, _) =
            run(&[Look::Cannot(ErrorClass::Unavailable), Look::Is(Progress::Met)]).await;
        assert_eq!(
            (heard, result.as_str()),
            (vec!["cannot read a: no".to_owned()], "2")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_where_waiting_does_not_help() {
        let (_, _, result, took) = run(&[Look::Cannot(ErrorClass::Forbidden)]).await;
        assert_eq!((result.as_str(), took), ("cannot read a: no", Duration::ZERO));
        let (_, _, result, took) =
            run(&[Look::Is(Progress::Failed("its progress deadline passed".into()))]).await;
        assert_eq!(
            (result.as_str(), took),
            ("Deployment n/a: its progress deadline passed", Duration::ZERO)
        );
    }

    #[test]
    fn selectors_read_as_in_a_query() {
        let check = |selector: Value, expect: Option<&str>| {
            let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"selector": selector}});
            assert_eq!(selector_of(&Object::try_from(object).unwrap()).as_deref(), expect);
        };
        check(
            json!({"matchLabels": {"app": "a", "tier": "b"}}),
            Some("app=a,tier=b"),
        );
        check(
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "DoesNotExist"}]}),
            Some("a in (x,y),!b"),
        );
        check(json!({}), None);
    }
}
