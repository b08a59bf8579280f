//! What a store has of the revoked certificates.

use std::time::{Duration, SystemTime};

use opamp_server::service::RevocationsFull;
use opamp_server::service::store::MemoryStore;
use opamp_server::{AcceptAll, OpampService, Revocations, Revoked, ServerConfig, ServiceConfig};

use crate::client::{UID, soon, start_on, uid};
use crate::store::Told;

fn serial(number: u32) -> Revoked {
    Revoked::Serial(number.to_string().parse().unwrap())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn agent() -> Revoked {
    Revoked::InstanceUid(uid(&UID).instance_uid().unwrap())
}

async fn service(revocations: &Revocations, store: &Told) -> OpampService<AcceptAll> {
    let mut config = ServiceConfig::default();
    config.store_deadline = Duration::from_millis(50);
    config.revocations = Some(revocations.clone());
    let service =
        OpampService::with_store(AcceptAll, ServerConfig::default(), config, store.clone());
    service.await.unwrap()
}

/// What a Server finds that is started now.
async fn found(store: &MemoryStore) -> Vec<(Revoked, SystemTime)> {
    let revocations = Revocations::new();
    service(&revocations, &Told::new(store)).await;
    revocations.entries()
}

#[tokio::test]
async fn every_change_of_the_list_is_stored_and_what_was_there_before() {
    let store = MemoryStore::default();
    let list = Revocations::new();
    list.revoke(serial(1), at(1)).unwrap();
    let first = service(&list, &Told::new(&store)).await;
    first.store_handle().flush().await.unwrap();
    assert_eq!(found(&store).await, [(serial(1), at(1))]);

    for number in 2..5 {
        list.revoke(serial(number), at(number.into())).unwrap();
    }
    list.revoke(agent(), at(1)).unwrap();
    first.store_handle().flush().await.unwrap();
    assert_eq!(found(&store).await, list.entries());

    assert!(list.reinstate(&serial(4)));
    list.forget_older_than(at(3));
    first.store_handle().flush().await.unwrap();
    assert_eq!(found(&store).await, [(serial(3), at(3)), (agent(), at(1))]);

    // Given to another one with a store of its own, it is in both.
    let second = MemoryStore::default();
    let other = service(&list, &Told::new(&second)).await;
    list.revoke(serial(9), at(9)).unwrap();
    first.store_handle().flush().await.unwrap();
    other.store_handle().flush().await.unwrap();
    assert_eq!(found(&store).await, list.entries());
    assert_eq!(found(&second).await, list.entries());
}

#[tokio::test]
async fn nobody_has_to_wait_for_it_to_be_stored() {
    let store = MemoryStore::default();
    let list = Revocations::new();
    let _service = service(&list, &Told::new(&store)).await;
    list.revoke(serial(1), at(1)).unwrap();
    let stored = async {
        while store.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(stored).await;
    assert_eq!(found(&store).await, list.entries());
}

#[tokio::test]
async fn an_orderly_end_stores_what_was_just_revoked() {
    let store = MemoryStore::default();
    let list = Revocations::new();
    let first = service(&list, &Told::new(&store)).await;
    list.revoke(agent(), at(1)).unwrap();
    first.shutdown(Duration::from_secs(1)).await;
    assert_eq!(found(&store).await, list.entries());
}

#[tokio::test]
async fn it_counts_while_the_store_fails_and_is_stored_when_it_works_again() {
    let store = MemoryStore::default();
    let told = Told::new(&store);
    let list = Revocations::with_max(4);
    let service = service(&list, &told).await;
    told.fail(true);
    list.revoke(serial(1), at(1)).unwrap();
    assert!(service.store_handle().flush().await.is_err());
    assert!(list.contains(&serial(1)));
    assert_eq!(found(&store).await, []);

    // What comes and goes meanwhile is bounded as well.
    let mut full = false;
    for number in 2..100 {
        match list.revoke(serial(number), at(1)) {
            Ok(()) => assert!(list.reinstate(&serial(number))),
            Err(RevocationsFull) => full = true,
        }
    }
    assert!(full);

    told.fail(false);
    let stored = async { while service.store_handle().flush().await.is_err() {} };
    soon(stored).await;
    assert_eq!(found(&store).await, [(serial(1), at(1))]);
    list.revoke(serial(7), at(7)).unwrap();
}

#[tokio::test]
async fn a_list_that_nobody_looks_at_stays_in_the_store() {
    let store = MemoryStore::default();
    let list = Revocations::new();
    let first = service(&list, &Told::new(&store)).await;
    list.revoke(agent(), at(1)).unwrap();
    first.shutdown(Duration::from_secs(1)).await;
    let without = start_on(Told::new(&store), |_, _| {}).await;
    without.shutdown.shutdown();
    soon(without.task).await.unwrap();
    assert_eq!(found(&store).await, list.entries());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_waited_for_is_stored_however_many_revoke_at_once() {
    let store = MemoryStore::default();
    let list = Revocations::new();
    let service = service(&list, &Told::new(&store)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (list, store, handle) = (list.clone(), store.clone(), service.store_handle());
        tasks.spawn(async move {
            for number in 0..20 {
                let what = serial(1000 * (task + 1) + number);
                list.revoke(what.clone(), at(1)).unwrap();
                // The machine may be busy: a flush that takes too long promises nothing.
                while handle.flush().await.is_err() {}
                assert!(found(&store).await.iter().any(|(found, _)| *found == what));
                if number % 2 == 0 {
                    assert!(list.reinstate(&what));
                    while handle.flush().await.is_err() {}
                    assert!(found(&store).await.iter().all(|(found, _)| *found != what));
                }
            }
        });
    }
    while let Some(done) = soon(tasks.join_next()).await {
        done.unwrap();
    }
    assert_eq!(found(&store).await, list.entries());
}
