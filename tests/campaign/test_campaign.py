"""The fault campaign as tests, one a kind of attack: `make campaign`. A seed in MMCCD_CAMPAIGN_SEED tries it again.

The kinds that are selected run two at a time, in forks of this process, when the first of them asks for its result.
"""

import os

import campaign
import pytest
from ledger import HEAD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ledgers(request, tmp_path_factory):
    "What came of all kinds that are selected."
    names = {i.callspec.params["kind"] for i in request.session.items if i.path == request.path}
    seed, scale = campaign.chosen_seed(), float(os.environ.get("MMCCD_CAMPAIGN_SCALE", "1"))
    found = {}
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{campaign.SEED_VARIABLE}={seed}\n{HEAD}", flush=True)
        for name, ledger in campaign.campaign(names, seed, scale, 2, tmp_path_factory.mktemp("campaign")):
            found[name] = ledger
            print(ledger.line(), flush=True)
        print(f"{sum(x.tried for x in found.values())} tried, {sum(len(x.losses) for x in found.values())} lost")
    return found


@pytest.mark.parametrize("kind", campaign.ATTACKS)
def test_nothing_is_lost(kind, ledgers):
    assert ledgers[kind].tried > 0
    assert not ledgers[kind].losses, "\n".join(ledgers[kind].losses)
