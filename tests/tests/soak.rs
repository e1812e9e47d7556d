//! The soak, as short as CI needs it: the laws of `cargo xtask soak`, of which none depends on speed.

use weir_tests::soak::{self, Limits, options::Options};

/// A generation that is not freed holds some megabytes; so few rounds leave more to chance than a thousand do.
const LIMITS: Limits = Limits { rss_kib: 48 * 1024, files: 8, sockets: 256, threads: 1 };

#[tokio::test(flavor = "multi_thread")]
async fn reloads_and_bad_files_under_load_fail_no_exchange_mix_no_versions_and_leave_nothing_behind()
-> anyhow::Result<()> {
    let options = Options { rounds: 40, rate: 200, seconds: 1, busy: false };
    let report = soak::run(&options, LIMITS, |line| println!("{line}")).await?;
    println!("{report}");
    assert_eq!(report.broken.0, 0, "{report}");
    assert!(report.rounds >= options.rounds && report.bad_files > 0 && report.refused > 0, "{report}");
    assert_eq!(report.requests, report.records);
    Ok(())
}
