//! Tokens, reviewed by the API server.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::AUDIENCE;
use crate::{ReviewError, TokenOwner, TokenReviewer};

/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

pub(super) struct Reviews(Api<TokenReview>);

impl Reviews {
    pub(super) fn new(client: Client) -> Self {
        Self(Api::all(client))
    }
}

#[tonic::async_trait]
impl TokenReviewer for Reviews {
    async fn review(&self, token: &str) -> Result<TokenOwner, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.into()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let answer = self.0.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| ReviewError::Unavailable(error.into()))?;
        owner(answer)
    }
}

/// Reads an answer. An API server that does not know about audiences names none: its yes is none.
fn owner(answer: TokenReview) -> Result<TokenOwner, ReviewError> {
    let status = answer.status.unwrap_or_default();
    if !status.authenticated.unwrap_or_default() {
        let why = status.error.unwrap_or_else(|| "not authenticated".into());
        return Err(ReviewError::Refused(why));
    }
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(ReviewError::Refused(format!("not for {AUDIENCE}")));
    }
    let user = status.user.unwrap_or_default();
    let pod = user.extra.and_then(|mut extra| {
        let names = extra.remove(POD_NAME)?;
        names.into_iter().next()
    });
    Ok(TokenOwner {
        account: user.username.unwrap_or_default(),
        pod,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

    use super::*;

    #[test]
    fn an_answer_counts_when_it_is_for_our_audience() {
        let user = UserInfo {
            username: Some("system:serviceaccount:ns:shardway-shard".into()),
            extra: Some([(POD_NAME.to_owned(), vec!["default-shard-1".to_owned()])].into()),
            ..UserInfo::default()
        };
        let check = |authenticated, audiences: Option<&str>| {
            let status = TokenReviewStatus {
                authenticated: Some(authenticated),
                audiences: audiences.map(|audience| vec![audience.to_owned()]),
                user: Some(user.clone()),
                error: None,
            };
            let status = Some(status);
            owner(TokenReview {
                status,
                ..TokenReview::default()
            })
        };
        let owner = check(true, Some(AUDIENCE)).unwrap();
        assert_eq!(owner.account, "system:serviceaccount:ns:shardway-shard");
        assert_eq!(owner.pod.as_deref(), Some("default-shard-1"));
        for (authenticated, audiences) in [
            (false, Some(AUDIENCE)),
            (true, None),
            (true, Some("https://kubernetes.default.svc")),
        ] {
            let refused = check(authenticated, audiences).unwrap_err();
            assert!(matches!(refused, ReviewError::Refused(_)), "{refused}");
        }
    }
}
