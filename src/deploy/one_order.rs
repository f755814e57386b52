//! One order to each of several hosts, which have all that it needs: nothing is copied, and nothing of this workstation
//! is needed but where the hosts are.
use crate::deploy::again::Line;
use crate::deploy::events::Observer;
use crate::deploy::fleet::Member;
use crate::deploy::host_result::HostResult;
use crate::deploy::rollout::{Obeyed, busy, obeyed};
use crate::protocol::messages::{Attempt, AttemptKind, Order, Project};
use crate::ship::ask;
use crate::ship::conversation::{Begun, Conversation, ConversationError};
use crate::ship::ssh::Remote;
use crate::sys::error::Result;

/// The same for all hosts.
pub struct OneOrder<'a> {
    /// The deployment's id.
    pub id: &'a str,
    /// `user@workstation`.
    pub by: &'a str,
    pub kind: AttemptKind,
    pub order: Order,
    /// Whose service it must be; none where anybody may give the order.
    pub project: Option<Project>,
    /// Also where it is another project's.
    pub take_over: bool,
    /// All that it is for, by name.
    pub hosts: &'a [String],
}

impl OneOrder<'_> {
    /// What came of one host, and the snapshot that it names.
    pub fn give(&self, member: &Member, observer: &dyn Observer) -> (HostResult, Option<String>) {
        self.give_to(member, member.service.name(), observer)
    }

    /// The same for a service that may be another project's.
    pub fn give_to(
        &self,
        member: &Member,
        service: &str,
        observer: &dyn Observer,
    ) -> (HostResult, Option<String>) {
        let (mut conversation, _remote) = match self.begin(member, service) {
            Ok(begun) => begun,
            Err(error) => return Obeyed::Not(error).result(member.name(), false),
        };
        let line = Line {
            target: member.host.target.clone(),
            service: service.into(),
            deployment: self.id.into(),
            by: self.by.into(),
            hosts: self.hosts.to_vec(),
        };
        obeyed(&mut conversation, &self.order, &line, observer).result(member.name(), true)
    }

    /// A conversation with a host, and the connection that it needs.
    fn begin(&self, member: &Member, service: &str) -> Result<(Box<Conversation>, Remote)> {
        let asked = Attempt::asked(self.id, self.kind, service, self.by, self.hosts);
        let attempt = Attempt { project: self.project.clone(), take_over: self.take_over, ..asked };
        let remote = member.remote()?;
        let (channel, last_words) = ask::converse(&remote)?;
        match Conversation::begin(channel, last_words.clone(), &attempt) {
            Ok(Begun::Held(conversation, _)) => Ok((conversation, remote)),
            Ok(Begun::Busy(holder)) => Err(busy(member.name(), &holder)),
            // There is no agent, or it said itself why it does not go on.
            Err(ConversationError::Gone { .. }) => Err(ask::ended(member.name(), &last_words)),
            Err(e) => Err(e.into()),
        }
    }
}
