import dataclasses
import hashlib

import numpy as np
import polars as pl
import pytest

from cprec_hf.behaviors import marketplace_words as words
from cprec_hf.behaviors.marketplace import N_EPOCHS, PAIRS, SPAN, START, Marketplace, MarketplaceConfig, simulate
from cprec_hf.behaviors.marketplace_oracle import MarketplaceOracle
from cprec_hf.errors import InputError

SMALL = MarketplaceConfig(
    seed=3, domains=["Books", "Games"], unseen=["Music"], users=200, events_per_user=12, unseen_users=150,
    unseen_events_per_user=6, items_per_domain=80, drift=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def market() -> Marketplace:
    return Marketplace(SMALL)


def test_the_same_config_makes_the_same_world_and_another_seed_another():
    first, again = simulate(SMALL), simulate(SMALL)
    assert first.interactions.collect().equals(again.interactions.collect())
    assert first.items.collect().equals(again.items.collect())
    other = simulate(dataclasses.replace(SMALL, seed=4))
    assert not other.items.collect().equals(first.items.collect())


def test_sizes_keys_times_and_no_repurchase(market):
    behaviors = market.simulate().validate()
    events, items = behaviors.interactions.collect(), behaviors.items.collect()
    assert len(events) == 200 * 12 + 150 * 6
    assert len(items) == 3 * 80 == items.select("domain", "item_id").n_unique()
    assert events.select("user_id", "domain", "item_id").n_unique() == len(events)
    assert events.select("user_id", "timestamp").n_unique() == len(events)
    assert events["timestamp"].is_between(START, START + SPAN).all()
    by_user = events.group_by("user_id").agg(pl.col("domain").unique())
    for user, domains in by_user.iter_rows():
        assert (domains == ["Music"]) if user.startswith("music-") else ("Music" not in domains)


def test_a_world_so_small_that_nobody_acts_in_a_domain_at_some_step():
    events = simulate(dataclasses.replace(SMALL, users=2, unseen_users=1)).interactions.collect()
    assert events.group_by("user_id").len().sort("user_id").rows() == [("music-u0", 6), ("u0", 12), ("u1", 12)]


def test_titles_carry_the_latent_attributes_and_vary_in_length(market):
    for domain in market.domains:
        for i, title in enumerate(domain.titles):
            said = title.split()
            assert set(said) & set(words.THEMES[domain.theme[i]]), title
            assert set(said) & set(words.STYLES[domain.style[i]]), title
            assert words.NOUNS[domain.name].split()[domain.noun[i]] in said
    lengths = {len(title.split()) for title in market.domains[0].titles}
    assert len(lengths) >= 4


def naive_logits(market, domain, pair, style, noun, last, epoch):
    """The docstring's formula, item by item."""
    c, out = market.config, []
    for i in range(len(domain.theme)):
        age = epoch - domain.release[i]
        logit = domain.popularity[i] + (c.novelty * 0.5**age if age >= 0 else 0.0)
        logit += c.theme_taste * (domain.theme[i] in PAIRS[pair])
        logit += c.style_taste * (domain.style[i] == style) + c.noun_taste * (domain.noun[i] == noun)
        logit += c.transition * (last >= 0 and domain.theme[i] == market.successor[last])
        out.append(logit)
    return np.array(out)


def test_choices_follow_the_stated_distribution(market):
    """Average log-odds of chosen against expected: the score of each event has mean zero under the true model."""
    events = pl.concat(market.event_chunks()).filter(pl.col("domain") == "Music").sort("user_id", "timestamp")
    domain = market.domains[-1]
    index = {item: i for i, item in enumerate(domain.item_ids)}
    surprise, variance = [], []
    for (_,), mine in events.group_by(["user_id"], maintain_order=True):
        bought: list[int] = []
        for row in mine.iter_rows(named=True):
            epoch = min((row["timestamp"] - START) * N_EPOCHS // SPAN, N_EPOCHS - 1)
            logits = naive_logits(market, domain, row["pair"], row["style"], row["noun"], row["last_theme"], epoch)
            assert row["last_theme"] == (domain.theme[bought[-1]] if bought else -1)
            logits[bought] = -np.inf
            p = np.exp(logits - logits.max())
            p /= p.sum()
            logits[bought] = 0.0
            surprise.append(logits[index[row["item_id"]]] - p @ logits)
            variance.append(p @ logits**2 - (p @ logits) ** 2)
            bought.append(index[row["item_id"]])
    z = np.sum(surprise) / np.sqrt(np.sum(variance))
    assert len(surprise) == 900
    assert abs(z) < 4


def held_out(market, length=4):
    events = pl.concat(market.event_chunks()).filter(pl.col("domain") == "Music").sort("user_id", "timestamp")
    grouped = events.group_by("user_id", maintain_order=True).agg("item_id", "timestamp")
    users = grouped["user_id"].to_list()
    histories = [items[:length] for items in grouped["item_id"].to_list()]
    targets = [items[length] for items in grouped["item_id"].to_list()]
    times = np.array([stamps[length] for stamps in grouped["timestamp"].to_list()])
    return users, histories, targets, times


def test_the_bayes_filter_equals_a_dense_twin(market):
    """Every state written out, a dense transition matrix, every item's logit by the formula."""
    users, histories, _, times = held_out(market, length=3)
    oracle, domain = MarketplaceOracle(market, "Music"), market.domains[-1]
    everything = domain.item_ids.tolist()
    some = [0]
    got = oracle.bayes_scores([users[i] for i in some], times[some], [histories[i] for i in some], [everything])

    states = [(f, s, n) for f in range(len(PAIRS)) for s in range(words.N_STYLES) for n in range(words.N_NOUNS)]
    f, s, n = np.array(states).T
    stay = 1 - SMALL.drift

    def moves(axis, size):
        return np.where(axis[:, None] == axis[None, :], stay, 0.0) + SMALL.drift / size

    step = moves(f, len(PAIRS)) * moves(s, words.N_STYLES) * moves(n, words.N_NOUNS)
    assert np.allclose(step.sum(axis=1), 1)
    events = pl.concat(market.event_chunks()).sort("user_id", "timestamp")
    for row, i in enumerate(some):
        stamps = events.filter(pl.col("user_id") == users[i])["timestamp"].to_list()
        belief, bought, last = np.full(len(states), 1 / len(states)), [], -1
        for t in range(4):
            belief = belief @ step if t else belief
            epoch = min((stamps[t] - START) * N_EPOCHS // SPAN, N_EPOCHS - 1)
            logits = np.stack([naive_logits(market, domain, *state, last, epoch) for state in states])
            logits[:, bought] = -np.inf
            p = np.exp(logits)
            p /= p.sum(axis=1, keepdims=True)
            if t == 3:
                break
            item = everything.index(histories[i][t])
            belief = belief * p[:, item]
            belief /= belief.sum()
            bought.append(item)
            last = domain.theme[item]
        expected = belief @ p
        new = [j for j in range(len(everything)) if j not in bought]
        np.testing.assert_allclose(got[row][new], expected[new], rtol=1e-9)
        assert np.isclose(got[row][new].sum(), 1)


def test_knowing_more_ranks_better(market):
    users, histories, targets, times = held_out(market)
    oracle = MarketplaceOracle(market, "Music")
    everything = [market.domains[-1].item_ids.tolist()] * len(users)
    hit = {}
    for name, scores in {
        "latent": oracle.latent_scores(users, times, everything),
        "bayes": oracle.bayes_scores(users, times, histories, everything),
    }.items():
        scores = scores.copy()
        for row, history in enumerate(histories):
            scores[row, [everything[0].index(item) for item in history]] = -np.inf
        hit[name] = np.mean([everything[0][j] == t for j, t in zip(scores.argmax(axis=1), targets, strict=True)])
    assert hit["latent"] > hit["bayes"] > 5 / 80


def test_oracles_refuse_what_would_not_be_exact(market):
    users, histories, _, times = held_out(market)
    oracle = MarketplaceOracle(market, "Music")
    with pytest.raises(InputError, match="history"):
        oracle.bayes_scores(users[:1], times[:1], [histories[0][1:]], [histories[0]])
    with pytest.raises(InputError, match="same config and seed"):
        oracle.latent_scores(["music-u0"], np.array([5]), [histories[0]])
    with pytest.raises(InputError, match="one domain only"):
        MarketplaceOracle(market, "Books")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": ["Books", "Cars"]}, "no domain 'Cars'"),
        ({"unseen": ["Books"]}, "Books, Games, Books; name one or more, each once"),
        ({"domains": [], "unseen": []}, "are none"),
        ({"items_per_domain": 20}, "at least 48 items"),
        ({"users": -1}, "`users` is -1; give at least 1"),
        ({"seed": -1}, "`seed` is -1; give at least 0"),
        ({"drift": 2.0}, "`drift` is 2.0; it is a probability"),
    ],
)
def test_impossible_worlds_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **change)


def test_a_world_keeps_its_bytes():
    """Corpora name the world by its settings alone, so the same settings must give the same world for good."""
    world = simulate(
        MarketplaceConfig(
            seed=3, domains=["Books", "Games"], unseen=["Music"], users=30, events_per_user=12, unseen_users=20,
            unseen_events_per_user=6, items_per_domain=60,
        )
    )  # fmt: skip
    digest = hashlib.sha256()
    for table, by in (
        (world.interactions, ["user_id", "domain", "timestamp", "item_id"]), (world.items, ["domain", "item_id"]),
    ):  # fmt: skip
        rows = table.collect().sort(by)
        digest.update(rows.select(sorted(rows.columns)).write_csv().encode())
    assert digest.hexdigest() == "67aa3e7d7ca0c5f4e75736121c0fc3ebf9d4d1ba128e92e2e2014f48d4496389"
