//! What a token says about the one that shows it.

use api::ShardId;

/// Whom a token was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOwner {
    /// User name of the service account: `system:serviceaccount:NAMESPACE:NAME`.
    pub account: String,
    /// Pod that the token is bound to.
    pub pod: Option<String>,
}

/// A token was not reviewed, or is no good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReviewError {
    /// Whoever knows could not be asked; to be tried again.
    #[error("ask the API server about a token")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not one, or not for us, or over.
    #[error("token refused: {0}")]
    Refused(String),
}

/// Says whom tokens were made for.
#[tonic::async_trait]
pub trait TokenReviewer: Send + Sync + 'static {
    /// Reviews a token for the audience `shardway.dev`.
    ///
    /// # Errors
    /// [`ReviewError`].
    async fn review(&self, token: &str) -> Result<TokenOwner, ReviewError>;
}

/// Which pods are shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPods {
    /// User name of their service account: `system:serviceaccount:NAMESPACE:NAME`.
    pub account: String,
    /// Name of the pool: pod `POOL-shard-N` is shard N.
    pub pool: String,
}

impl ShardPods {
    /// The shard that a token's owner is. An account alone is not enough: all shards have the same.
    pub fn shard(&self, owner: &TokenOwner) -> Option<ShardId> {
        if owner.account != self.account {
            return None;
        }
        let rest = owner.pod.as_deref()?.strip_prefix(self.pool.as_str())?;
        let digits = rest.strip_prefix("-shard-")?;
        let number: u32 = digits.parse().ok()?;
        // A pod of a StatefulSet has one name.
        (number.to_string() == digits).then_some(ShardId(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_pod_of_the_pool_with_the_shards_account() {
        let account = "system:serviceaccount:shardway-system:shardway-shard";
        let pods = ShardPods {
            account: account.into(),
            pool: "default".into(),
        };
        let check = |account: &str, pod: Option<&str>, expected: Option<u32>| {
            let owner = TokenOwner {
                account: account.into(),
                pod: pod.map(str::to_owned),
            };
            assert_eq!(pods.shard(&owner), expected.map(ShardId), "{owner:?}");
        };
        check(account, Some("default-shard-0"), Some(0));
        check(account, Some("default-shard-12"), Some(12));
        for pod in [
            "default-shard-",
            "default-shard-+1",
            "default-shard-01",
            "default-shard-1-2",
            "other-shard-1",
            "default-2-shard-1",
            "shardway-operator-0",
        ] {
            check(account, Some(pod), None);
        }
        check(account, None, None);
        let elsewhere = "system:serviceaccount:team:shardway-shard";
        check(elsewhere, Some("default-shard-0"), None);
        let other = "system:serviceaccount:shardway-system:default";
        check(other, Some("default-shard-0"), None);
    }
}
