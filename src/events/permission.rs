//! Abuse protection (`CloudEvents` 1.0, HTTP webhooks, section 4): nobody is sent events who has not
//! said that they want ours.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};

use super::Failure;

/// How long nobody is asked again who has said no, or nothing: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Clients choose the names of hubs: past so many, all are forgotten and asked for anew.
const MAX_HUBS: usize = 1024;

/// What each hub's address has answered; one entry where all hubs have the same.
#[derive(Default)]
pub(crate) struct Permissions(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Permission>>>>);

#[derive(Default)]
enum Permission {
    #[default]
    Unknown,
    Given,
    Denied {
        failure: Failure,
        pause: Duration,
        until: Instant,
    },
}

impl Permissions {
    /// Asks if nobody has asked yet. Whoever comes meanwhile waits for the same answer.
    ///
    /// # Errors
    /// What asking came to, now or a short while ago.
    pub(crate) async fn require(
        &self,
        hub: &str,
        asked: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let permission = self.of(hub);
        let mut permission = permission.lock().await;
        let last_pause = match &*permission {
            Permission::Given => return Ok(()),
            Permission::Denied { failure, until, .. } if Instant::now() < *until => {
                return Err(failure.clone());
            }
            Permission::Denied { pause, .. } => *pause,
            Permission::Unknown => Duration::ZERO,
        };
        let answer = asked.await;
        *permission = match &answer {
            Ok(()) => Permission::Given,
            // To find that out once more costs nothing, and it ends when the handler starts.
            Err(Failure::Unreachable) => Permission::Unknown,
            Err(failure) => {
                let pause = (last_pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                let until = Instant::now() + pause;
                Permission::Denied { failure: failure.clone(), pause, until }
            }
        };
        answer
    }

    fn of(&self, hub: &str) -> Arc<tokio::sync::Mutex<Permission>> {
        let mut hubs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permission) = hubs.get(hub) {
            return Arc::clone(permission);
        }
        if hubs.len() >= MAX_HUBS {
            hubs.clear();
        }
        Arc::clone(hubs.entry(hub.to_owned()).or_default())
    }
}

/// Whether an answer's `WebHook-Allowed-Origin` names us or everybody.
pub(crate) fn allows(headers: &HeaderMap, origin: &str) -> bool {
    let values = headers.get_all("webhook-allowed-origin").iter();
    let mut origins =
        values.filter_map(|value| HeaderValue::to_str(value).ok()).flat_map(|v| v.split(','));
    origins.any(|one| one.trim() == "*" || one.trim().eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_for_a_while_and_then_for_longer() {
        let permissions = Permissions::default();
        let refuse = || ready(Err(Failure::NotAllowed));
        for pause in [500, 1000, 2000] {
            assert_eq!(permissions.require("", refuse()).await, Err(Failure::NotAllowed));
            tokio::time::advance(Duration::from_millis(pause - 1)).await;
            assert!(permissions.require("", ready(Ok(()))).await.is_err(), "asked within {pause}");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(permissions.require("", ready(Ok(()))).await, Ok(()));
        assert_eq!(permissions.require("", refuse()).await, Ok(()), "asked again");
        assert!(permissions.require("other", refuse()).await.is_err(), "another hub's");
    }

    #[tokio::test]
    async fn who_cannot_be_reached_is_asked_at_once_again() {
        let permissions = Permissions::default();
        assert!(permissions.require("", ready(Err(Failure::Unreachable))).await.is_err());
        assert_eq!(permissions.require("", ready(Ok(()))).await, Ok(()));
    }

    #[tokio::test]
    async fn many_hubs_are_forgotten_and_not_kept() {
        let permissions = Permissions::default();
        for hub in 0..MAX_HUBS * 3 {
            assert_eq!(permissions.require(&hub.to_string(), ready(Ok(()))).await, Ok(()));
        }
        assert!(permissions.0.lock().unwrap().len() <= MAX_HUBS);
    }

    #[test]
    fn an_origin_is_allowed_by_its_name_or_by_a_star() {
        let allowed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = HeaderValue::from_static(value);
                headers.append("webhook-allowed-origin", value);
            }
            allows(&headers, "hub.example.com:8001")
        };
        assert!(allowed(&["*"]) && allowed(&["HUB.example.com:8001"]));
        assert!(allowed(&["a", "b, hub.example.com:8001"]));
        assert!(!allowed(&[]) && !allowed(&[""]) && !allowed(&["hub.example.com"]));
    }
}
