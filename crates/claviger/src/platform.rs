//! The platform as its operator reaches it.

use anyhow::{Context as _, Result, bail};
use claviger_net::http::{Answer, Client, ClientError};
use claviger_wire::etsi014::ErrorBody;
use serde::de::DeserializeOwned;

use crate::cli::StateArgs;
use crate::demo::{self, Demo};

/// The platform of a state folder.
pub(crate) struct Platform {
    url: String,
    client: Client,
}

impl Platform {
    pub(crate) fn open(state: &StateArgs) -> Result<Self> {
        let demo = Demo::open(&state.state)?;
        let client = demo::client(&demo.folder("site-b/operator"))?;
        Ok(Self { url: demo.platform_url()?, client })
    }

    /// Asks for what is at `path`.
    pub(crate) async fn ask<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        understood(self.client.get(&self.at(path), &[]).await)
    }

    /// Sends JSON to `path`.
    pub(crate) async fn post<A: DeserializeOwned>(&self, path: &str, json: Vec<u8>) -> Result<A> {
        understood(self.client.post_json(&self.at(path), &[], json).await)
    }

    /// Sends text to `path`.
    pub(crate) async fn post_text<A: DeserializeOwned>(
        &self,
        path: &str,
        text: Vec<u8>,
    ) -> Result<A> {
        understood(self.client.post_text(&self.at(path), text).await)
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

fn understood<A: DeserializeOwned>(answer: Result<Answer, ClientError>) -> Result<A> {
    let away = "the platform does not answer: start `claviger up`, or give its folder with --state";
    let answer = answer.context(away)?;
    if !answer.status.is_success() {
        let body = ErrorBody::from_json(answer.body.expose()).unwrap_or_default();
        bail!("the platform refuses ({}): {}", answer.status.as_u16(), body.message);
    }
    let other = "the platform's answer is not understood: run the same version at both ends";
    serde_json::from_slice(answer.body.expose()).context(other)
}
