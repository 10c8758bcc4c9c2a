//! The agent by which servers are asked. ureq looks names up on a thread of its own and panics where the system
//! starts none; this agent then looks them up on the thread that asks.

use std::sync::mpsc::sync_channel;
use std::thread;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration;
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// An agent of these settings.
pub fn agent(config: Config) -> Agent {
    Agent::with_parts(config, DefaultConnector::default(), LookUp)
}

/// Looks names up, where it can within the time that a request may take.
#[derive(Debug)]
struct LookUp;

impl Resolver for LookUp {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let now = move |uri: &Uri, config: &Config| {
            let patient = NextTimeout { after: Duration::NotHappening, ..timeout };
            DefaultResolver::default().resolve(uri, config, patient)
        };
        if timeout.after.is_not_happening() {
            return now(uri, config);
        }
        let (sender, receiver) = sync_channel(1);
        let (own_uri, own_config) = (uri.clone(), config.clone());
        let started = thread::Builder::new().spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = sender.send(now(&own_uri, &own_config));
        });
        match started {
            Err(_) => now(uri, config),
            Ok(_) => {
                receiver.recv_timeout(*timeout.after).unwrap_or(Err(Error::Timeout(timeout.reason)))
            }
        }
    }
}
