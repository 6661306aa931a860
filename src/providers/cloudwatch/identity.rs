//! Who the controller is to AWS: the first of environment, web identity (IRSA), container credentials (ECS, EKS Pod Identity) and instance
//! metadata (`IMDSv2`) that has an answer, in the order of AWS's own tools. What expires is kept until five minutes before it does.
//! <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>

use crate::providers::exchange;
use crate::providers::http::{Answer, Call, Http};
use crate::providers::secrets::Secrets;
use crate::providers::surroundings::Surroundings;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use std::fmt;
use tokio::sync::Mutex;

/// So long before its end an identity is asked for anew.
const RESERVE: SignedDuration = SignedDuration::from_mins(5);
/// Where container credentials may come from by plain HTTP, besides this machine.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
const INSTANCE: &str = "http://169.254.169.254";

/// Keys to sign with.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
    /// `None` for what never ends.
    pub expires: Option<Timestamp>,
}

impl Identity {
    /// What nobody may see.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![self.secret_key.clone()];
        secrets.extend(self.session_token.clone());
        secrets
    }

    fn lasts(&self, now: Timestamp) -> bool {
        self.expires
            .is_none_or(|end| end.duration_since(now) > RESERVE)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, until {:?})", self.access_key, self.expires)
    }
}

/// Finds the identity, and keeps it.
pub(super) struct Chain {
    surroundings: Surroundings,
    /// Asked for once at a time.
    kept: Mutex<Option<Identity>>,
}

impl Chain {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            kept: Mutex::default(),
        }
    }

    /// The identity; `region` is where a web identity is exchanged, unless the environment says otherwise.
    pub async fn identity(
        &self,
        http: &Http,
        region: &str,
        now: Timestamp,
    ) -> Result<Identity, String> {
        if let Some(identity) = self.of_environment() {
            return Ok(identity);
        }
        let mut kept = self.kept.lock().await;
        if let Some(identity) = kept.as_ref().filter(|identity| identity.lasts(now)) {
            return Ok(identity.clone());
        }
        let patience = http.timing().overall;
        let found = tokio::time::timeout(patience, self.find(http, region))
            .await
            .map_err(|_| {
                format!("the controller's AWS identity was not to be had within {patience:?}")
            })??;
        *kept = Some(found.clone());
        Ok(found)
    }

    fn of_environment(&self) -> Option<Identity> {
        Some(Identity {
            access_key: self.surroundings.variable("AWS_ACCESS_KEY_ID")?,
            secret_key: self.surroundings.variable("AWS_SECRET_ACCESS_KEY")?,
            session_token: self.surroundings.variable("AWS_SESSION_TOKEN"),
            expires: None,
        })
    }

    async fn find(&self, http: &Http, region: &str) -> Result<Identity, String> {
        let surroundings = &self.surroundings;
        if let (Some(token), Some(role)) = (
            surroundings.file("AWS_WEB_IDENTITY_TOKEN_FILE").await?,
            surroundings.variable("AWS_ROLE_ARN"),
        ) {
            return self.by_web_identity(http, region, &token, &role).await;
        }
        if let Some(identity) = self.of_container(http).await? {
            return Ok(identity);
        }
        if surroundings
            .variable("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|text| text.eq_ignore_ascii_case("true"))
        {
            return Err(nobody(
                "instance metadata is switched off by AWS_EC2_METADATA_DISABLED",
            ));
        }
        self.of_instance(http).await.map_err(|why| nobody(&why))
    }

    async fn by_web_identity(
        &self,
        http: &Http,
        region: &str,
        token: &str,
        role: &str,
    ) -> Result<Identity, String> {
        let region = self
            .surroundings
            .variable("AWS_REGION")
            .filter(|region| crate::analysis::is_region(region))
            .unwrap_or_else(|| region.to_owned());
        let endpoint = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"]
            .iter()
            .find_map(|name| self.surroundings.variable(name))
            .unwrap_or_else(|| format!("https://sts.{region}.{}", super::domain(&region)));
        let session = self
            .surroundings
            .variable("AWS_ROLE_SESSION_NAME")
            .unwrap_or_else(|| "serin".to_owned());
        // Form encoding is that of a URL's query.
        let mut form = Url::parse("http://form").map_err(|error| error.to_string())?;
        form.query_pairs_mut()
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", role)
            .append_pair("RoleSessionName", &session)
            .append_pair("WebIdentityToken", token);
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/xml"));
        let call = Call {
            method: Method::POST,
            url: address(&endpoint)?,
            headers,
            body: form.query().unwrap_or_default().as_bytes().to_vec(),
            confidential: true,
            insecure_skip_verify: false,
        };
        let secrets = Secrets::texts(vec![token.to_owned()]);
        let failed = |why: String| {
            secrets.hide(format!(
                "the controller can't become {role} by its web identity: {why}"
            ))
        };
        let answer = http
            .send(&call)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if !answer.status.is_success() {
            let why = match (element(&text, "Code"), element(&text, "Message")) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                _ => exchange::beginning(&answer.body),
            };
            return Err(failed(format!("status {}: {why}", answer.status.as_u16())));
        }
        let part = |name: &str| {
            element(&text, name).ok_or_else(|| failed(format!("the answer has no {name}")))
        };
        Ok(Identity {
            access_key: part("AccessKeyId")?,
            secret_key: part("SecretAccessKey")?,
            session_token: Some(part("SessionToken")?),
            expires: part("Expiration")?.parse().ok(),
        })
    }

    async fn of_container(&self, http: &Http) -> Result<Option<Identity>, String> {
        let surroundings = &self.surroundings;
        let address = match (
            surroundings.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            surroundings.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => format!("http://{}{path}", CONTAINER_HOSTS[0]),
            (None, Some(address)) => address,
            (None, None) => return Ok(None),
        };
        let url = self::address(&address)?;
        let host = url.host_str().unwrap_or_default();
        let near =
            CONTAINER_HOSTS.contains(&host) || matches!(host, "127.0.0.1" | "localhost" | "[::1]");
        if url.scheme() != "https" && !near {
            return Err(format!(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI names {host} by plain HTTP; expected https, or the host of the container service"
            ));
        }
        let mut headers = HeaderMap::new();
        let token = match surroundings
            .file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
            .await?
        {
            Some(token) => Some(token),
            None => surroundings.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = &token {
            let mut value = HeaderValue::from_str(token).map_err(|_| {
                "the token for container credentials can't stand in a header".to_owned()
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let secrets = Secrets::texts(token.into_iter().collect());
        let answer = get(http, url, headers).await;
        let answer =
            answer.map_err(|why| secrets.hide(format!("no container credentials: {why}")))?;
        document(&answer).map(Some)
    }

    async fn of_instance(&self, http: &Http) -> Result<Identity, String> {
        let base = self
            .surroundings
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or_else(|| INSTANCE.to_owned());
        let at = |path: &str| address(&format!("{}/latest/{path}", base.trim_end_matches('/')));
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-aws-ec2-metadata-token-ttl-seconds",
            HeaderValue::from_static("300"),
        );
        let call = Call {
            method: Method::PUT,
            url: at("api/token")?,
            headers,
            body: Vec::new(),
            confidential: true,
            insecure_skip_verify: false,
        };
        let answer = exchange::send(http, &call).await?;
        let mut token = HeaderValue::from_bytes(&answer.body)
            .map_err(|_| "the token of the instance metadata can't stand in a header".to_owned())?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("x-aws-ec2-metadata-token", token);
        let roles = at("meta-data/iam/security-credentials/")?;
        let answer = get(http, roles.clone(), headers.clone()).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let role = text.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err("the instance has no role".to_owned());
        }
        let url = roles
            .join(role)
            .map_err(|_| "the instance's role has a name that can't be asked for".to_owned())?;
        document(&get(http, url, headers).await?)
    }
}

fn nobody(why: &str) -> String {
    format!(
        "the controller has no AWS identity: no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, no AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, no container credentials; {why}"
    )
}

fn address(text: &str) -> Result<Url, String> {
    Url::parse(text).ok().filter(Url::has_host).ok_or_else(|| {
        "an address for AWS credentials in the controller's environment is not a URL".to_owned()
    })
}

async fn get(http: &Http, url: Url, headers: HeaderMap) -> Result<Answer, String> {
    let call = Call {
        method: Method::GET,
        url,
        headers,
        body: Vec::new(),
        confidential: true,
        insecure_skip_verify: false,
    };
    exchange::send(http, &call).await
}

/// The document that container and instance metadata answer with. What is wrong in it is not quoted.
fn document(answer: &Answer) -> Result<Identity, String> {
    let document: Value = serde_json::from_slice(&answer.body)
        .map_err(|_| "the answer with AWS credentials is not JSON".to_owned())?;
    let part = |name: &str| {
        document[name]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let needed = |name: &str| {
        part(name).ok_or_else(|| format!("the answer with AWS credentials has no {name}"))
    };
    Ok(Identity {
        access_key: needed("AccessKeyId")?,
        secret_key: needed("SecretAccessKey")?,
        session_token: part("Token"),
        expires: part("Expiration").and_then(|text| text.parse().ok()),
    })
}

/// The text of the first element with this name. STS answers in XML; keys and tokens are texts without elements in them.
fn element(xml: &str, name: &str) -> Option<String> {
    let start = format!("<{name}>");
    let (_, rest) = xml.split_once(&start)?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.trim();
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(plain).filter(|text| !text.is_empty())
}
