//! Conversations that no request without an `id` lists.

use heymarket_sync::sandbox::{
    DefaultView, IdRule, Inbox, OtherwiseGets, Paging, SandboxOptions, TeamOptions, WantedId,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_an_api_that_wants_a_members_id_mirrors_everything_and_exits_0() {
    for conversations in [DefaultView::Both, DefaultView::Open] {
        let conversation_id = IdRule {
            wanted: WantedId::Member,
            otherwise: OtherwiseGets::BadData,
            own_inboxes_only: true,
            stands_for: None,
        };
        let paging = Paging { conversations, conversation_id, ..Paging::default() };
        // Messages bring their conversations along.
        let team = TeamOptions { messages: 0, ..team(2_000) };
        let options = SandboxOptions { team, paging, ..SandboxOptions::default() };
        let rig = Rig::with(options).await;
        for inbox in rig.source().inboxes() {
            // Nobody belongs to two.
            let members = vec![inbox.id * 10, inbox.id * 10 + 1];
            rig.source().put_inbox(Inbox { members, ..inbox });
        }
        let ended = rig.verb(&["sync"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_equals(rig.source(), &rig.pool).await;

        // The daemon goes on with it.
        let daemon = rig.start(&["run"]);
        traffic(rig.source());
        rig.catches_up(daemon).await;
    }
}
