"""The views of the dashboard that fetch what they show: quotas, caches, and the cluster over a real Redis."""

import contextlib
import os
import re

from playwright.sync_api import expect as see

from checks import check, expect, expect_equal, wait_until
from dashboard import THREE_OVERVIEWS
from dashboard_scene import HOSTILE, KEPT, ROUTES, SCREENS, artefacts, axe, confirm, dialog, scene
from fleet import Front, Process, fetch_json, free_port


def row_of(page, name):
    """The row of a table that begins with this name."""
    return page.locator("#content").get_by_role("row", name=re.compile(f"^{name}"))


def outcome(page):
    return page.locator("#outcomes p").last


def looks(world, page, view):
    """Looks at a view on every screen: axe, width, and a picture."""
    folder, began = artefacts(world), page.viewport_size
    for screen, how in SCREENS.items():
        page.set_viewport_size(how["viewport"])
        page.emulate_media(color_scheme=how["color_scheme"])
        axe(world, page, f"{view}, {screen}")
        width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        expect(width <= 0, f"{view} is {width} px wider than the {screen} screen")
        page.screenshot(path=f"{folder}/{screen}-{view}.png", full_page=True)
    page.set_viewport_size(began)


@check("dashboard: quotas are shown as they are used, and begin anew when an operator says so")
def quotas(world):
    with scene(world, "quotas", begin=KEPT) as stage:
        page = stage.page(bypass_csp=True)
        stage.visit(page, "quotas")
        see(page.get_by_text("Nobody has used anything of daily, house, teams in the window that runs.")).to_be_visible()

        def ask(**fields):
            body = {"model": "mistral:7b", "prompt": "a secret word"}
            return stage.call("/api/generate", body, Authorization=f"Bearer {stage.key}", **fields)[0]

        alice, house = row_of(page, "alice"), row_of(page, "everybody together")
        expect_equal(ask(), 200, "the first request")
        for words in ("api_key=", "daily", "all tokens, each day", "13 of 20", "within", "refused", "in "):
            see(alice).to_contain_text(words)
        expect_equal(ask(), 200, "the second request")
        for words in ("26 of 20", "used up"):
            see(alice).to_contain_text(words)
        for words in ("house", "all tokens, each month", "26 of 20", "beyond the limit", "a warning"):
            see(house).to_contain_text(words)
        expect_equal(ask(), 429, "the third request")
        see(row_of(page, "header:x-team=")).to_contain_text("26 of 1,000,000")
        told = fetch_json(f"{stage.front.admin}/api/orchestrator/quotas")["quotas"]
        expect_equal(sorted((one["quota"], one["used"]) for one in told), [("daily", 26), ("house", 26), ("teams", 26)], "sums")
        see(page.get_by_text("What was used is forgotten at a restart")).to_be_visible()
        see(page.locator("#content tbody tr")).to_have_count(3)
        looks(world, page, "quotas-used")

        page.get_by_role("button", name="Reset daily of alice").click()
        see(dialog(page)).to_contain_text("What was used in the window that runs is forgotten.")
        dialog(page).get_by_role("button", name="Cancel").click()
        expect_equal(ask(), 429, "what a cancelled question changes")
        page.get_by_role("button", name="Reset daily of alice").click()
        confirm(page, Reason="paid")
        see(outcome(page)).to_have_text("The quota daily of alice began anew")
        see(alice).to_have_count(0)
        expect_equal(ask(x_team=HOSTILE), 200, "a request after that")
        see(alice).to_contain_text("13 of 20")
        page.get_by_role("button", name="Reset for all keys…").click()
        confirm(page, Quota="house")
        see(outcome(page)).to_have_text("The quota house of 1 key began anew")
        see(house).to_have_count(0)

        see(row_of(page, "header:x-team=<img")).to_be_visible()
        expect_equal((page.locator("img").count(), page.title()), (0, "Quotas · Arriero"), "what the name of a team made")
        page.keyboard.press("/")
        page.keyboard.type("ALI")
        see(page.locator("#content tbody tr")).to_have_count(1)
        page.get_by_label("Filter by key or quota").fill("nothing like it")
        see(page.get_by_text("No key matches.")).to_be_visible()


@check("dashboard: caches are shown as they fill and help, and are purged when an operator says so")
def caches(world):
    with scene(world, "caches", begin=KEPT) as stage:
        page = stage.page()
        stage.visit(page, "caches")
        wait_until(lambda: stage.server("one")["models"] and stage.server("two")["models"], 20, "digests are known")

        def numbers(name, entries, hits, misses, share, passed):
            cells = row_of(page, name).get_by_role("cell")
            for place, wanted in ((1, entries), (3, hits), (4, misses), (5, share), (6, passed)):
                see(cells.nth(place)).to_have_text(str(wanted))

        numbers("about", 0, 0, 0, "–", 0)
        numbers("texts", 0, 0, 0, "–", 0)
        for _ in range(3):
            expect_equal(stage.call("/api/version")[0], 200, "an answer that may be kept")
        stage.call("/api/version", Cache_Control="no-store")
        for texts in (["one", "two"], ["two", "three"]):
            expect_equal(stage.call("/api/embed", {"model": "mistral:7b", "input": texts})[0], 200, "embeddings")
        numbers("about", 1, 2, 1, "66.7 %", 1)
        numbers("texts", 3, 1, 3, "25.0 %", 0)
        see(row_of(page, "about")).to_contain_text("answers, shared by all clients")
        see(row_of(page, "about")).to_contain_text(re.compile(r"[\d,.]+ k?B of 268 MB"))
        told = {one["route"]: one for one in fetch_json(f"{stage.front.admin}/api/orchestrator/caches")["caches"]}
        expect_equal([told[name]["hits"] for name in ("about", "texts")], [2, 1], "hits")

        purge = page.get_by_role("button", name="Purge the embeddings of texts")
        purge.click()
        see(dialog(page)).to_contain_text("3 embeddings are kept. The next requests ask servers.")
        confirm(page, Only_of_the_model="llama3.2:3b")
        see(outcome(page)).to_have_text("0 embeddings thrown away")
        numbers("texts", 3, 1, 3, "25.0 %", 0)
        purge.click()
        confirm(page)
        see(outcome(page)).to_have_text("3 embeddings thrown away")
        numbers("texts", 0, 1, 3, "25.0 %", 0)
        numbers("about", 1, 2, 1, "66.7 %", 1)
        page.get_by_role("button", name="Purge the answers of about").click()
        confirm(page, Only_URIs_that_begin_with="/api/tags")
        see(outcome(page)).to_have_text("0 answers thrown away")
        page.get_by_role("button", name="Purge all…").click()
        confirm(page)
        see(outcome(page)).to_have_text("All that routes kept is thrown away")
        numbers("about", 0, 2, 1, "66.7 %", 1)


@check("dashboard: a view for which nothing is configured says what to write, and that is right")
def not_configured(world):
    with scene(world, "unset") as stage:
        page = stage.page(bypass_csp=True)
        text = stage.text
        for view, sentence, afterwards, written in (
            ("quotas", "No token quotas are configured.", "Nobody has used anything of daily", lambda code: f"{text}\n{code}"),
            ("caches", "No route keeps answers.", "shared by all clients|apart for each", lambda code: text.replace(" }]", f", {code} }}]", 1)),
            ("cluster", "No cluster is configured", "not linked", lambda code: f"{text}\n{code}"),
        ):
            stage.visit(page, view)
            see(page.get_by_text(sentence)).to_be_visible()
            expect_equal(page.locator("#content table:visible, #content button:visible, #tools button:visible").count(), 0, view)
            looks(world, page, f"{view}-not-configured")
            stage.front.reload(written(page.locator("#content code").first.text_content()))
            see(page.locator("#content").get_by_text(re.compile(afterwards)).first).to_be_visible()
            see(page.get_by_text(sentence)).not_to_be_visible()
            stage.front.reload(text)
            see(page.get_by_text(sentence)).to_be_visible()


@check("dashboard: a view that fetches asks one at a time, says what went wrong, and stops when another is shown")
def fetches(world):
    with scene(world, "fetches", begin=KEPT) as stage:
        page = stage.page()
        asked = []
        path = "**/api/orchestrator/caches"
        page.route(path, lambda route: asked.append(route))  # Nobody answers.
        stage.visit(page, "caches")
        for _ in range(3):
            page.evaluate(THREE_OVERVIEWS)
        expect_equal(len(asked), 1, "requests while nobody answers")
        stage.visit(page, "quotas")
        see(page.get_by_text("Nobody has used anything")).to_be_visible()
        expect_equal([one.request.failure for one in asked], ["net::ERR_ABORTED"], "what was on its way")
        page.evaluate(THREE_OVERVIEWS)
        expect_equal(len(asked), 1, "requests of a view that is not shown")
        page.unroute(path)
        problem = {"title": "Service Unavailable", "status": 503, "detail": "no <b>luck</b> today"}
        page.route(path, lambda route: route.fulfill(status=503, json=problem))
        stage.visit(page, "caches")
        see(page.get_by_role("alert")).to_have_text("This cannot be shown as it is now: no <b>luck</b> today. Trying again…")
        page.unroute(path)
        see(row_of(page, "about")).to_be_visible()
        see(page.get_by_role("alert")).to_have_count(0)


def redis_on(port, directory):
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Process("redis", command, directory, dict(os.environ))


@contextlib.contextmanager
def cluster_of_two(world):
    """A scene whose Arriero is one of two over a Redis: the scene, the other one, and the Redis in a list."""
    port = free_port()
    redis = [redis_on(port, world.directory)]
    begin = f'{ROUTES}\ncluster: {{ redis: "redis://127.0.0.1:{port}", instance: front-1 }}'
    try:
        with scene(world, "cluster", begin=begin) as stage:
            other = world.keep(Front(world.binary, "second", stage.directory, stage.text.replace("front-1", "front-2")))
            try:
                yield stage, other, redis, port
            finally:
                other.process.stop()
    finally:
        redis[-1].stop()


@check("dashboard: the instances of a cluster, their link and what differs among them, over a real Redis")
def cluster(world):
    with cluster_of_two(world) as (stage, other, redis, port):
        page = stage.page(bypass_csp=True)
        stage.visit(page, "cluster")
        instances, differences = page.get_by_role("table", name="Instances"), page.get_by_role("table", name="What differs")
        one, two = (instances.get_by_role("row", name=re.compile(f"^{name}")) for name in ("front-1", "front-2"))
        see(instances.locator("tbody tr")).to_have_count(2)
        see(page.locator("#summary")).to_have_text("2 instances in arriero")
        told = {view["id"][:7]: view for view in fetch_json(f"{other.admin}/api/multihost/instances")["data"]}
        for row, name in ((one, "front-1"), (two, "front-2")):
            for words in ("active", "linked", "the same", told[name]["version"], told[name]["configHash"][:12]):
                see(row).to_contain_text(words)
        see(one).to_contain_text("the one that shows this")
        see(instances.get_by_role("cell", name="yes", exact=True)).to_have_count(1)
        see(two).to_contain_text(re.compile(r"\d m?s ago"))
        facts = page.locator("#content dl")
        see(facts).to_contain_text(f"127.0.0.1:{port}")
        see(page.get_by_text("Everything is the same everywhere.")).to_be_visible(timeout=15_000)
        stage.order("/servers/one/maintenance", {"for": "1h"})
        see(facts).to_contain_text("1 in force")

        other.reload(stage.text.replace("front-1", "front-2").replace("max_in_flight: 2", "max_in_flight: 3"))
        # An instance tells it with its next sign of life, and the other one hears it with its own.
        see(two).to_contain_text("another one", timeout=20_000)
        page.get_by_role("button", name="Compare now").click()
        see(differences).to_contain_text("its configuration is another one")
        see(page.locator("#trouble")).to_contain_text("different configurations")
        looks(world, page, "cluster-differs")
        other.reload(stage.text.replace("front-1", "front-2"))
        see(two).to_contain_text("the same", timeout=20_000)
        page.get_by_role("button", name="Connect again…").click()
        see(dialog(page)).to_contain_text("Requests go on meanwhile")
        confirm(page)
        see(outcome(page)).to_have_text("There is another connection to Redis")
        see(page.get_by_text("Everything is the same everywhere.")).to_be_visible(timeout=15_000)

        redis[-1].stop()
        see(one).to_contain_text("not linked")
        see(page.locator("#trouble")).to_contain_text("The Redis of the cluster cannot be used")
        page.get_by_role("button", name="Connect again…").click()
        dialog(page).get_by_role("button", name="Connect again").click()
        see(dialog(page).get_by_role("alert")).to_contain_text("Redis cannot be used", timeout=15_000)
        dialog(page).get_by_role("button", name="Cancel").click()
        see(differences).to_contain_text("Redis cannot be used")
        redis.append(redis_on(port, world.directory))
        see(one).not_to_contain_text("not linked", timeout=15_000)
        see(instances.locator("tbody tr")).to_have_count(2, timeout=20_000)
        see(page.locator("#trouble")).not_to_be_visible()
