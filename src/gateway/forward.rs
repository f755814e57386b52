//! A request on its way to an instance: which one, over which connection, and what happens if that fails.
use crate::formats::comfy::api::route::Route;
use crate::gateway::access::Access;
use crate::gateway::answer::{AnswerBody, Stream};
use crate::gateway::body::RequestBody;
use crate::gateway::client::{BodyFault, Client, Phase};
use crate::gateway::headers;
use crate::gateway::health::{REFUSED, unwell};
use crate::gateway::instance::Instance;
use crate::gateway::key::Key;
use crate::gateway::link::{ConnectError, Link, SendError};
use crate::gateway::opening::{self, Opening};
use crate::gateway::preference;
use crate::gateway::refusal::{Fault, Refusal};
use crate::gateway::router::{Claim, Preference};
use crate::gateway::settings::Active;
use crate::gateway::share::Who;
use crate::gateway::shared::Gateway;
use crate::gateway::tunnel::Tunnel;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, HOST, HeaderValue, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE, TRANSFER_ENCODING,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Within so long the pictures of an instance that has ended are with another one.
const MOVED: Duration = Duration::from_secs(10);

/// Its future is moved for each request, so what is rarely awaited gets a box of its own.
pub struct Forward<'a> {
    gateway: &'a Arc<Gateway>,
    client: &'a Arc<Client>,
    active: &'a Active,
    who: Who,
    /// To answer where the instance chooses none.
    pub subprotocol: Option<HeaderValue>,
    client_side: Option<OnUpgrade>,
    route: Route<'a>,
    /// The client of a WebSocket.
    key: Option<Key>,
    preference: Preference,
    /// A kept connection failed, so the next one will be new.
    retried: bool,
    hold_until: Option<Instant>,
    /// The last instance that could not be reached, and why.
    unreachable: Option<(Arc<Instance>, Refusal)>,
}

/// An instance's answer, and what it comes over.
struct Answered {
    claim: Claim,
    link: Link,
    response: Response<Incoming>,
}

/// What stops a request that an instance already has.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Cut,
    SlowClient,
    SlowInstance,
}

/// A request without a body, kept to send it again.
type Spare = (Method, Uri, HeaderMap);

fn build(spare: &Spare) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::empty());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = spare.clone();
    request
}

impl<'a> Forward<'a> {
    pub fn new(
        gateway: &'a Arc<Gateway>,
        client: &'a Arc<Client>,
        active: &'a Active,
        (who, client_side): (Who, Option<OnUpgrade>),
        route: Route<'a>,
        query: Option<&str>,
    ) -> Self {
        Forward {
            gateway,
            client,
            active,
            who,
            subprotocol: None,
            client_side,
            key: preference::client_key(&route, query),
            route,
            preference: Preference::default(),
            retried: false,
            hold_until: None,
            unreachable: None,
        }
    }

    pub async fn run(
        &mut self,
        request: &mut Request<RequestBody>,
        access: &mut Option<Access>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let safe = self.prepare(request).await?;
        loop {
            let claim = self.claim(access.as_mut()).await?;
            let instance = claim.instance.clone();
            if !request.headers().contains_key(HOST) {
                // A client of HTTP/1.0.
                request.headers_mut().insert(HOST, instance.host.clone());
            }
            if self.preference.upgrade
                && let Some(key) = self.key
            {
                Box::pin(self.make_way(key, &instance)).await;
            }
            let Some(mut link) = self.link(&instance, safe).await else { continue };
            let drains = !self.gateway.router.is_named(&instance);
            let spare: Option<Spare> = (safe && (link.reused || drains || self.route == Route::View))
                .then(|| (request.method().clone(), request.uri().clone(), request.headers().clone()));
            if let Some(access) = access {
                access.instance = Some(instance.clone());
            }
            let outgoing = std::mem::replace(request, Request::new(RequestBody::empty()));
            match self.send(&mut link, outgoing, &instance).await {
                Ok(response) => {
                    let mut answered = Answered { claim, link, response };
                    if self.route == Route::View
                        && answered.response.status() == StatusCode::NOT_FOUND
                        && let Some(spare) = &spare
                        && let Some(found) = Box::pin(self.look_for(spare, &instance)).await?
                    {
                        answered = found;
                    }
                    return self.respond(answered, access);
                }
                Err(failed) => *request = self.once_more(failed, spare, (link.reused, drains), &instance)?,
            }
            self.retried = true;
        }
    }

    /// Where the request would like to go, and what its headers must not ask for. Says whether it may be sent
    /// again when an instance ends before it answers (RFC 9110, 9.2.2).
    async fn prepare(&mut self, request: &mut Request<RequestBody>) -> Result<bool, Refusal> {
        if self.gateway.router.known() > 1 {
            let preference = preference::of(self.gateway, &self.route, self.key, request);
            self.preference = Box::pin(preference).await.map_err(|_| self.broken_body())?;
        }
        self.preference.upgrade = self.client_side.is_some();
        let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
            && request.body().is_end_stream()
            && !self.preference.upgrade;
        if self.route == Route::Prompt {
            // The answer is read for the job's id.
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        Ok(safe)
    }

    /// The request again, after a failure that allows it.
    fn once_more(
        &mut self,
        failed: SendError<Stop>,
        spare: Option<Spare>,
        (reused, drains): (bool, bool),
        instance: &Arc<Instance>,
    ) -> Result<Request<RequestBody>, Refusal> {
        match (failed, spare) {
            // A kept connection had ended: nothing was sent, so anything may be sent again.
            (SendError::NotSent(back), _) if reused => Ok(*back),
            (SendError::Ended(_), Some(spare)) if reused => {
                instance.check_now.notify_one();
                Ok(build(&spare))
            }
            (SendError::Ended(_), Some(spare)) if drains => {
                // It was stopped while it was asked for what only it had.
                self.preference.holder = None;
                self.preference.not.push(instance.clone());
                Ok(build(&spare))
            }
            (failed, _) => Err(self.failure(failed, instance)),
        }
    }

    async fn claim(&mut self, access: Option<&mut Access>) -> Result<Claim, Refusal> {
        if let Some(claim) = self.gateway.router.claim(&self.preference) {
            return Ok(claim);
        }
        if let Some((instance, refusal)) = self.unreachable.take() {
            // Every healthy one was tried.
            if let Some(access) = access {
                access.instance = Some(instance);
            }
            return Err(refusal);
        }
        self.client.enter(Phase::Wait);
        let limits = &self.active.settings.limits;
        let waiting = &self.gateway.waiting;
        Box::pin(waiting.claim(
            &self.gateway.router,
            &self.preference,
            limits,
            &self.who,
            &mut self.hold_until,
        ))
        .await
    }

    /// ComfyUI must not have two WebSockets of one client: the older is closed first.
    async fn make_way(&self, key: Key, instance: &Arc<Instance>) {
        if let Some(older) = self.gateway.affinity.socket(key, instance.id()) {
            older.make_way().await;
        }
        if let Some(before) = self.gateway.predecessor() {
            before.make_way(key, instance.id()).await;
        }
    }

    /// A connection to the instance, kept or new; `None` when another instance is to be tried.
    ///
    /// The instance may close a kept connection at any time, which may become known only by sending. What is
    /// safe to send again (GET without a body) is then sent again. Anything else uses a kept connection only
    /// if that had a request within the last second and is open at this very moment; the race that remains
    /// ends in a failure (502), never in a second try. A new connection for each would cost 50 us more of CPU
    /// (77 us a POST instead of 27, over loopback). A WebSocket's handshake always gets a new connection.
    async fn link(&mut self, instance: &Arc<Instance>, safe: bool) -> Option<Link> {
        if !self.retried {
            if safe && let Some(link) = instance.take_link() {
                return Some(link);
            }
            if !self.preference.upgrade
                && let Some(link) = instance.take_fresh_link()
                && let Some(link) = link.if_alive().await
            {
                return Some(link);
            }
        }
        let limits = &self.active.settings.limits;
        self.client.enter(Phase::Wait);
        let connect = Duration::from_millis(limits.connect_ms);
        let why = match Box::pin(Link::connect(&instance.target.address, connect)).await {
            Ok(link) => return Some(link),
            Err(ConnectError::Refused) => {
                self.refused(instance);
                return None;
            }
            Err(ConnectError::Slow) => Refusal::new(
                Fault::InstanceSlow,
                format!("{} did not take a connection within {} ms", instance.id(), limits.connect_ms),
            ),
            Err(ConnectError::Other(e)) => Refusal::new(
                Fault::InstanceRefused,
                format!("no connection to {} can be opened: {e}", instance.id()),
            ),
        };
        instance.check_now.notify_one();
        self.preference.not.push(instance.clone());
        self.unreachable = Some((instance.clone(), why));
        None
    }

    /// Nothing listens at the instance's address: the request goes elsewhere, or waits.
    fn refused(&mut self, instance: &Arc<Instance>) {
        if !self.gateway.router.is_named(instance) {
            instance.close();
        } else if instance.refused(REFUSED) {
            unwell(self.gateway, instance, REFUSED);
            instance.check_now.notify_one();
        }
        if self.preference.holder.as_deref() == Some(instance.id()) {
            // What only it had is gone with it.
            self.preference.holder = None;
        }
    }

    fn send(
        &self,
        link: &mut Link,
        request: Request<RequestBody>,
        instance: &Instance,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<Stop>>> {
        let client = self.client;
        client.enter(if request.body().is_read() { Phase::Answer } else { Phase::Body });
        link.send(request, move || {
            if instance.is_cut() {
                Some(Stop::Cut)
            } else if !client.is_expired() {
                None
            } else if client.phase() == Phase::Body && client.waits_for_body() {
                Some(Stop::SlowClient)
            } else {
                Some(Stop::SlowInstance)
            }
        })
    }

    /// A picture that was made, and that nobody has now, is on its way: the instance that made it starts again, or
    /// has ended, and another one gets it. `None`: nobody has it, and its maker is gone or says so itself.
    async fn look_for(&self, spare: &Spare, first: &Arc<Instance>) -> Result<Option<Answered>, Refusal> {
        let asked = |query: &str| self.gateway.jobs().and_then(|engine| engine.made.maker(query));
        let maker = spare.1.query().and_then(asked);
        let is_maker = |instance: &Arc<Instance>| maker.as_deref() == Some(instance.id());
        let mut denied = vec![first.clone()];
        let until = Instant::now() + MOVED;
        loop {
            if let Some(found) = self.ask_others(spare, first, &mut denied).await {
                return Ok(Some(found));
            }
            if maker.is_none() || Instant::now() > until {
                break;
            }
            tokio::time::sleep(MOVED / 40).await;
            // The first one may be who gets it.
            if let Some(claim) = self.gateway.router.claim_other(&[])
                && let Some(answered) = self.ask_one(spare, claim, &mut denied).await
            {
                return Ok(Some(answered));
            }
        }
        let all = self.gateway.router.all();
        let away = all.into_iter().map(|(i, _)| i).find(|i| is_maker(i) && !denied.iter().any(is_maker));
        away.map_or(Ok(None), |maker| {
            let text = format!("{} made it, and does not answer; ask again in a moment", maker.id());
            Err(Refusal::new(Fault::NoInstance, text))
        })
    }

    /// A picture that one instance does not have may be with another: first those of the table are asked,
    /// then those that drain.
    async fn ask_others(
        &self,
        spare: &Spare,
        first: &Arc<Instance>,
        denied: &mut Vec<Arc<Instance>>,
    ) -> Option<Answered> {
        let mut asked = vec![first.clone()];
        while let Some(claim) = self.gateway.router.claim_other(&asked) {
            asked.push(claim.instance.clone());
            if let Some(answered) = self.ask_one(spare, claim, denied).await {
                return Some(answered);
            }
        }
        None
    }

    /// `denied`: who has said that it does not have it.
    async fn ask_one(
        &self,
        spare: &Spare,
        claim: Claim,
        denied: &mut Vec<Arc<Instance>>,
    ) -> Option<Answered> {
        let instance = claim.instance.clone();
        let connect = Duration::from_millis(self.active.settings.limits.connect_ms);
        // A new connection, which needs no second try; this is rare enough.
        let mut link = Link::connect(&instance.target.address, connect).await.ok()?;
        let response = self.send(&mut link, build(spare), &instance).await.ok()?;
        if response.status() == StatusCode::NOT_FOUND && !denied.iter().any(|i| Arc::ptr_eq(i, &instance)) {
            denied.push(instance.clone());
        }
        let has = response.status() != StatusCode::NOT_FOUND && !response.status().is_server_error();
        has.then_some(Answered { claim, link, response })
    }

    fn respond(
        &mut self,
        answered: Answered,
        access: &mut Option<Access>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        #[allow(unused_mut)]
        let Answered { mut claim, link, response } = answered;
        #[cfg(feature = "fault-late-claim")]
        claim.answered();
        let instance = claim.instance.clone();
        let (mut head, incoming) = response.into_parts();
        let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let client_side = self.client_side.take();
        if upgraded && client_side.is_none() {
            return Err(garbled(&instance, "it changed the protocol without being asked"));
        }
        if let Some(coding) = head.headers.get(TRANSFER_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        {
            return Err(garbled(&instance, "it used a transfer coding that it was not asked for"));
        }
        let Some(mut access) = access.take() else { return Err(ended(&instance, "")) };
        headers::strip(&mut head.headers, upgraded);
        head.headers.insert(headers::INSTANCE, instance.label.clone());
        if self.gives_slot(&instance) {
            head.headers.append(SET_COOKIE, headers::slot_cookie(instance.target.slot));
        }
        // An instance that speaks HTTP/1.0 does not make the client's connection one of 1.0.
        head.version = Version::HTTP_11;
        access.answered(&instance, head.status.as_u16());
        if let (true, Some(client)) = (upgraded, client_side) {
            claim.becomes_websocket();
            access.upgrade = true;
            if let Some(subprotocol) = self.subprotocol.take() {
                head.headers.entry(SEC_WEBSOCKET_PROTOCOL).or_insert(subprotocol);
            }
            let tunnel = Arc::new(Tunnel::new(&instance));
            let (client_key, seat) = (self.key, self.client.clone());
            opening::open(Opening { tunnel, link, client, claim, access, client_key, seat });
            return Ok(Response::from_parts(head, AnswerBody::Own(Bytes::new())));
        }
        self.client.enter(Phase::Stream);
        self.client.served_by(instance.number);
        let names_job = self.route == Route::Prompt && head.status == StatusCode::OK;
        let stream = Stream {
            incoming,
            link: Some(link),
            claim,
            access,
            client: self.client.clone(),
            job: names_job.then(Vec::new),
            over: false,
            waiting: false,
        };
        Ok(Response::from_parts(head, AnswerBody::Stream(Box::new(stream))))
    }

    /// Whether a browser should come back to this slot, and does not know it yet.
    fn gives_slot(&self, instance: &Arc<Instance>) -> bool {
        self.preference.holder.is_none()
            && self.preference.slot != Some(instance.target.slot)
            && self.gateway.router.ready() > 1
            && self.gateway.router.is_named(instance)
    }

    fn broken_body(&self) -> Refusal {
        match self.client.body_fault() {
            Some(BodyFault::TooLarge) => too_large(self.active.settings.limits.body),
            Some(BodyFault::ClientGone) => {
                Refusal::new(Fault::ClientGone, "the client ended within the body of its request")
            }
            None => self.slow_client(),
        }
    }

    fn slow_client(&self) -> Refusal {
        let limit = self.active.settings.limits.idle_ms;
        Refusal::new(Fault::ClientSlow, format!("nothing of the request's body came for {limit} ms"))
    }

    fn failure(&self, failed: SendError<Stop>, instance: &Instance) -> Refusal {
        let limits = &self.active.settings.limits;
        match failed {
            _ if self.client.body_fault().is_some() => self.broken_body(),
            SendError::Stopped(Stop::Cut) => ended(instance, ": it was cut"),
            SendError::Stopped(Stop::SlowClient) => self.slow_client(),
            SendError::Stopped(Stop::SlowInstance) => {
                let message = match self.client.phase() {
                    Phase::Body => format!("took nothing of the request for {} ms", limits.idle_ms),
                    _ => format!("did not answer within {} ms", limits.response_ms),
                };
                Refusal::new(Fault::InstanceSlow, format!("{} {message}", instance.id()))
            }
            SendError::Garbled(why) => garbled(instance, &why),
            SendError::Ended(why) => {
                instance.check_now.notify_one();
                ended(instance, &format!(": {why}"))
            }
            SendError::NotSent(_) => ended(instance, ""),
        }
    }
}

pub fn too_large(limit: u64) -> Refusal {
    Refusal::new(Fault::BodyTooLarge, format!("the body of a request may have {limit} bytes"))
}

fn ended(instance: &Instance, why: &str) -> Refusal {
    let message = format!("{} ended the connection before it answered{why}", instance.id());
    Refusal::new(Fault::InstanceEnded, message)
}

fn garbled(instance: &Instance, why: &str) -> Refusal {
    Refusal::new(Fault::InstanceGarbled, format!("{} did not answer in HTTP: {why}", instance.id()))
}
