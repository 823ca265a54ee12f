//! A connection that leaves HTTP.

use super::{Broken, Traffic};
use crate::policy::failure::Reason;
use crate::proxy::client::Client;
use crate::proxy::message::AnswerHead;
use crate::proxy::response;
use crate::proxy::server::Server;

impl Traffic<'_, '_> {
    /// From here on bytes pass both ways without a meaning for us.
    pub(super) async fn upgrade(mut self, head: AnswerHead) -> Result<(), Broken> {
        response::note_status(&mut self.exchange.ctx, head.status.as_u16());
        let (Client::Http1(_), Server::Http1(server)) = (&self.exchange.client, &mut *self.server) else {
            return Err(Reason::UpstreamProtocol.into());
        };
        if !self.exchange.ctx.wants_upgrade {
            return Err(Reason::UpstreamProtocol.into());
        }
        self.exchange.body.release(self.sent);
        server.upgrade();
        let head = response::upgraded(self.exchange, head);
        if let Client::Http1(client) = &mut self.exchange.client {
            client.upgrade(&head);
        }
        self.tunnel = true;
        self.body_ended = false;
        self.sent = false;
        match std::future::poll_fn(|cx| self.poll_answer(cx)).await {
            // How such a connection is left is the other protocol's business.
            Err(Broken { reason: Reason::ClientClosed, .. }) => Ok(()),
            ended => ended,
        }
    }
}
