//! Sends spans to a collector, on a separate thread.
//!
//! Constraint: a collector may be absent, slow or hostile. The thread sends one request at a time,
//! reads no body and follows no redirect. It retries no failed request, because late traces are not
//! worth the memory.
//!
//! [`SpanExporter`] encodes the spans, and sends them through an HTTP client. As for a webhook
//! without settings below `tls`, this client trusts the system's certificate authorities. The queue
//! of the SDK is not used, because it does not report how many spans it dropped.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::IntCounterVec;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use super::{SCOPE, Traces};
use crate::clock::Clock;
use crate::config::{Otlp, Tls};
use crate::webhook::TrustRoots;

/// The maximum number of spans in one request.
const BATCH_MAX: usize = 512;

/// The longest wait for more spans before a request is sent.
const GATHERING: Duration = Duration::from_millis(500);

/// The time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of the last request, when the daemon stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("the certificates for otlp.endpoint cannot be used")]
    Tls(#[source] rustls::Error),
    #[error("cannot create an HTTP client for otlp.endpoint")]
    Client(#[source] reqwest::Error),
    #[error("cannot create an exporter for otlp.endpoint")]
    Exporter(#[source] ExporterBuildError),
    #[error("the thread for traces cannot be started")]
    Thread(#[source] io::Error),
}

/// Counts spans by outcome: `sent`, `failed` or `dropped`.
///
/// The collector did not accept failed spans. Dropped spans did not reach the thread, because the
/// channel was full or the thread had ended.
#[derive(Clone, Debug)]
pub(crate) struct Counter(IntCounterVec);

impl Counter {
    /// Sets the count of each outcome to 0, so that metrics always list all outcomes.
    pub(crate) fn new(spans: IntCounterVec) -> Self {
        for outcome in ["sent", "failed", "dropped"] {
            spans.with_label_values(&[outcome]);
        }
        Self(spans)
    }

    pub(super) fn dropped(&self, n: usize) {
        self.add("dropped", n);
    }

    fn add(&self, outcome: &str, n: usize) {
        self.0.with_label_values(&[outcome]).inc_by(n as u64);
    }
}

/// The thread that sends spans.
pub(crate) struct Exporter {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts the thread. Reads the system's certificate authorities for `https://`.
    pub(crate) fn start(
        otlp: &Otlp,
        clock: Clock,
        counter: Counter,
    ) -> Result<(Arc<Traces>, Self), ExportError> {
        let failure = Failure::default();
        let collector = Collector {
            exporter: exporter(otlp, failure.clone())?,
            failure,
            counter: counter.clone(),
            is_failing: false,
        };
        let (traces, spans) = Traces::new(clock, counter);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ExportError::Thread)?;
        let stop = CancellationToken::new();
        let (done, ended) = oneshot::channel();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                runtime.block_on(collector.run(spans, stopped));
                runtime.shutdown_background();
                let _ = done.send(());
            })
            .map_err(ExportError::Thread)?;
        Ok((traces, Self { stop, ended }))
    }

    /// Waits for `stop`, then at most 2 seconds for the thread to send the last spans.
    ///
    /// If the thread panics, logs an error and returns. Callbacks do not depend on traces, so the
    /// process continues.
    pub(crate) async fn supervise(self, stop: CancellationToken) {
        let Self { stop: own, ended } = self;
        let _own = own.clone().drop_guard();
        tokio::pin!(ended);
        tokio::select! {
            result = &mut ended => {
                if result.is_err() {
                    error!(
                        "the thread that sends traces panicked; restart the daemon to send traces again"
                    );
                }
                return;
            }
            () = stop.cancelled() => own.cancel(),
        }
        // A collector that floods the thread with data must not delay the exit.
        let _ = tokio::time::timeout(LAST_TIMEOUT.saturating_mul(2), ended).await;
    }
}

/// Makes the exporter.
///
/// The exporter also sends the headers in the environment variable `OTEL_EXPORTER_OTLP_HEADERS`.
fn exporter(otlp: &Otlp, failure: Failure) -> Result<SpanExporter, ExportError> {
    let client = Client {
        http: http_client(otlp)?,
        headers: otlp.headers.iter().cloned().collect(),
        failure,
    };
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(traces_url(&otlp.endpoint))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(TIMEOUT)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(ExportError::Exporter)?;
    let (name, version) = SCOPE;
    let program = [
        KeyValue::new("service.name", name),
        KeyValue::new("service.version", version),
    ];
    let resource = Resource::builder_empty().with_attributes(program);
    exporter.set_resource(&resource.build());
    Ok(exporter)
}

fn http_client(otlp: &Otlp) -> Result<reqwest::Client, ExportError> {
    let roots = match otlp.endpoint.scheme() {
        "https" => TrustRoots::load(),
        _ => TrustRoots::empty(),
    };
    let tls = roots.client_config(&Tls::default());
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.map_err(ExportError::Tls)?)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .map_err(ExportError::Client)
}

/// The URL for traces below the endpoint, as the specification of OTLP defines it.
fn traces_url(endpoint: &Url) -> String {
    format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'))
}

/// Why the last request failed. The error of the exporter omits this reason.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Sends the requests of the exporter.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    /// The headers of `otlp.headers`.
    ///
    /// They replace those of `OTEL_EXPORTER_OTLP_HEADERS` with the same names.
    headers: HeaderMap,
    failure: Failure,
}

#[async_trait]
impl HttpClient for Client {
    /// Sends a request. Returns only the status of the answer.
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let mut request = reqwest::Request::try_from(request)?;
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answer = self.http.execute(request).await;
        let answer = answer.map_err(reqwest::Error::without_url);
        self.failure.set(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("status {}", answer.status().as_u16())),
            Err(error) => Some(crate::error::chain(error)),
        });
        let mut status = http::Response::new(Bytes::new());
        *status.status_mut() = answer?.status();
        Ok(status)
    }
}

struct Collector {
    exporter: SpanExporter,
    failure: Failure,
    counter: Counter,
    /// Whether the last request failed. Only the first of several failures is logged.
    is_failing: bool,
}

impl Collector {
    async fn run(mut self, mut spans: mpsc::Receiver<SpanData>, stop: CancellationToken) {
        let mut batch = Vec::new();
        let working = async {
            while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
                gather(&mut spans, &mut batch).await;
                // `stop` may cancel this request. Then the last request sends these spans again.
                self.send(batch.clone()).await;
                batch.clear();
            }
        };
        tokio::select! {
            () = working => return,
            () = stop.cancelled() => {}
        }
        while batch.len() < BATCH_MAX
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        if !batch.is_empty() {
            let _ = tokio::time::timeout(LAST_TIMEOUT, self.send(batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let n = batch.len();
        let sent = self.exporter.export(batch).await;
        let failure = sent.err().map(|error| {
            let reason = self.failure.take();
            reason.unwrap_or_else(|| error.to_string())
        });
        let outcome = if failure.is_some() { "failed" } else { "sent" };
        self.counter.add(outcome, n);
        match failure {
            Some(reason) if !self.is_failing => warn!(
                "the collector at otlp.endpoint takes no traces: {reason}. Dropping them; events and \
                 deliveries are not affected"
            ),
            None if self.is_failing => info!("the collector at otlp.endpoint takes traces again"),
            _ => {}
        }
        self.is_failing = outcome == "failed";
    }
}

/// Waits for more spans, so that the spans of one event are usually sent together.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    let more = async {
        while batch.len() < BATCH_MAX
            && let Some(span) = spans.recv().await
        {
            batch.push(span);
        }
    };
    let _ = tokio::time::timeout(GATHERING, more).await;
}
