"""`cprec VERB`: the package from a command line. Each verb hands its arguments on to the room that does the work.

cprec corpus build recipes/tiny/corpus.yaml
cprec train cpt --config recipes/tiny/cpt.yaml
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from cprec_hf import __version__
from cprec_hf.cli_hub import add_verbs
from cprec_hf.command import exit_status
from cprec_hf.errors import InputError

STAGES = ("base", "cpt", "sft", "preference", "pointwise", "listwise")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 2 after an error the user can mend, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _run(arguments), arguments)


def _run(arguments: list[str]) -> int:
    parser = _parser()
    # Stages, evaluation and prediction read their own flags (TRL's among them), so those pass through untouched.
    verb, rest = arguments[:1], arguments[1:]
    if verb == ["train"] and rest[:1] and rest[0] in STAGES:
        return _stage(rest[0], rest[1:])
    if verb == ["anneal"] and not {"-h", "--help"} & set(rest):
        return _stage("anneal", rest)
    if verb == ["evaluate"]:
        return _main_of("cprec_hf.evaluation.protocol", rest)
    if verb == ["study"]:
        return _main_of("cprec_hf.evaluation.study.run", rest)
    if verb == ["predict"]:
        return _main_of("cprec_hf.ranking.predict", rest)
    if not arguments:
        parser.print_help()
        return 0
    parsed = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    return run(parsed)


def _stage(name: str, arguments: list[str]) -> int:
    if any(word.replace("_", "-").startswith("--plot-schedule") for word in arguments):
        import_module("cprec_hf.training.schedule_plot").main(name, arguments)
        return 0
    return _main_of(f"cprec_hf.training.{name}", arguments)


def _main_of(module: str, arguments: list[str]) -> int:
    import_module(module).main(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cprec",
        description="Behavioural corpora, continual pre-training and ranking with language models (CPRec).",
        epilog="Recipes are YAML files: your own, or the shipped ones by name (recipes/tiny/cpt.yaml).",
    )
    parser.add_argument("--version", action="version", version=f"cprec_hf {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    demo = _verb(verbs, "demo", "the whole way on a simulated marketplace, in minutes", "cprec demo")
    demo.set_defaults(run=_demo)

    corpus = _verb(
        verbs, "corpus", "build, audit, describe or push a corpus", "cprec corpus build recipes/tiny/corpus.yaml"
    )
    actions = corpus.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _verb(actions, "build", "logs to an audited corpus", "cprec corpus build recipes/tiny/corpus.yaml")
    build.add_argument("recipe", help="a corpus recipe")
    build.add_argument("--output", help="folder to write, in place of the recipe's")
    build.add_argument("--tokenizer", help="repo or folder of the tokenizer to count with, in place of the recipe's")
    build.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    build.set_defaults(run=_corpus_build)
    audit = _verb(
        actions, "audit", "prove that nothing held out is in a corpus", "cprec corpus audit outputs/tiny/corpus"
    )
    audit.add_argument("corpus", help="a corpus folder")
    audit.set_defaults(run=_corpus_audit)
    stats = _verb(actions, "stats", "users, items, lengths and tokens", "cprec corpus stats outputs/tiny/corpus")
    stats.add_argument("corpus", help="a corpus folder")
    stats.set_defaults(run=_corpus_stats)
    push = _verb(
        actions, "push", "publish a corpus in one commit", "cprec corpus push outputs/tiny/corpus me/tiny-corpus"
    )
    push.add_argument("corpus", help="a corpus folder")
    push.add_argument("repo", help="dataset repo on the Hub, OWNER/NAME")
    push.add_argument("--public", action="store_true", help="a public repo; needs a source that may be redistributed")
    push.add_argument("--branch", default="main", help="branch to push to (default main)")
    push.set_defaults(run=_corpus_push)

    hub = _verb(verbs, "hub", "a Hub on this machine, publishing, and a check-up", "cprec hub doctor")
    add_verbs(hub.add_subparsers(dest="action", metavar="ACTION", required=True), _verb)

    train = _verb(verbs, "train", "run a training stage", "cprec train cpt --config recipes/tiny/cpt.yaml")
    train.add_argument(
        "stage",
        choices=STAGES,
        help="base: a small LM of your own; cpt: a trunk; sft: a domain; listwise: targets over siblings at every "
        "position; preference: DPO; pointwise: yes or no",
    )
    train.add_argument("flags", nargs="*", help="--config RECIPE and any key of it as a flag; --help lists them all")
    anneal = _verb(verbs, "anneal", "branch an anneal from a trunk", "cprec anneal --config recipes/tiny/anneal.yaml")
    for verb in (train, anneal):
        verb.add_argument("--plot-schedule", metavar="PNG", help="draw the recipe's learning rate, and train nothing")
    _verb(
        verbs,
        "evaluate",
        "rank held-out targets, with baselines and significance",
        "cprec evaluate --config recipes/tiny/evaluate.yaml",
    )
    _verb(
        verbs,
        "study",
        "methods x domains x seeds x ablations, as cells that resume, and the tables",
        "cprec study --config recipes/study-tiny.yaml --quick",
    )
    _verb(
        verbs,
        "predict",
        "recommend to every user of a dataset, from files to files",
        "cprec predict --config recipes/tiny/predict.yaml",
    )

    recommend = _verb(
        verbs,
        "recommend",
        "what would this user like?",
        "cprec recommend outputs/tiny/sft --history music-7 music-12 -k 5",
    )
    recommend.add_argument("model", help="a model folder or Hub repo")
    recommend.add_argument("--revision", help="branch, tag or commit of the repo")
    who = recommend.add_mutually_exclusive_group()
    who.add_argument("--history", nargs="*", default=[], metavar="ITEM", help="item ids, oldest first")
    who.add_argument("--example", type=int, metavar="N", help="the history of the N-th test user of its corpus")
    recommend.add_argument("--domain", help="domain to recommend from; the model's own if not given")
    recommend.add_argument("-k", type=int, default=5, help="how many items (default 5)")
    recommend.add_argument("--score", choices=("sum", "mean", "pmi"), default="sum", help="see docs/method.md")
    recommend.add_argument("--explain", action="store_true", help="why the best one: history items and tokens")
    recommend.add_argument("--json", action="store_true", help="machine-readable output")
    recommend.set_defaults(run=_recommend)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, what: str, example: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=what, epilog=f"example: {example}")
    return verb


def _demo(_: argparse.Namespace) -> int:
    from cprec_hf.demo import run_demo

    run_demo(main)
    return 0


def _corpus_build(given: argparse.Namespace) -> int:
    from cprec_hf.corpus.build import build_corpus
    from cprec_hf.corpus.config import CorpusConfig
    from cprec_hf.recipes import read_recipe

    overrides = {key: getattr(given, key) for key in ("output", "tokenizer") if getattr(given, key)}
    folder = build_corpus(read_recipe(given.recipe, CorpusConfig, overrides), overwrite=given.overwrite)
    print(f"{folder}: audited and written")
    return 0


def _corpus_audit(given: argparse.Namespace) -> int:
    from cprec_hf.corpus.audit import audit_corpus

    report = audit_corpus(given.corpus)
    print(report.table(), report.figures_tables(), sep="\n\n")
    return 0 if report.passed else 1


def _corpus_stats(given: argparse.Namespace) -> int:
    from cprec_hf.corpus.stats import corpus_stats

    print(corpus_stats(given.corpus))
    return 0


def _corpus_push(given: argparse.Namespace) -> int:
    from cprec_hf.corpus.push import plan_audited_corpus
    from cprec_hf.hub.publish import publish

    print(publish(plan_audited_corpus(given.corpus, given.repo, branch=given.branch, private=not given.public)).url)
    return 0


def _recommend(given: argparse.Namespace) -> int:
    from cprec_hf.corpus.load import load_corpus, load_facts
    from cprec_hf.quiet import without_datasets_bars
    from cprec_hf.ranking.recommender import Recommender

    recommender = Recommender.from_pretrained(given.model, revision=given.revision)
    record = recommender.record
    domain = given.domain or record.domain
    history, who = given.history, "given"
    if given.example is not None:
        facts = load_facts(record.corpus, record.corpus_revision)
        if domain not in facts["domains"]:
            raise InputError(f"--example needs a domain of {record.corpus}: {', '.join(facts['domains'])}")
        with without_datasets_bars():
            rows = load_corpus(record.corpus, f"sft-{facts['domains'][domain]['slug']}", record.corpus_revision)["test"]
        if not 0 <= given.example < len(rows):
            raise InputError(f"--example is {given.example}; {record.corpus} has test users 0 to {len(rows) - 1}")
        row = rows[given.example]
        history, who = row["history"], f"user {row['user_id']}"
    found = recommender.recommend([history], k=given.k, domain=domain, score=given.score)[0]
    why = recommender.explain(history, found[0].item_id, domain, given.score) if given.explain and found else None
    if given.json:
        rows_out = [{"item_id": r.item_id, "title": r.title, "score": r.score} for r in found]
        reasons = {"explanation": why.as_dict()} if why else {}
        print(json.dumps({"history": history, "recommendations": rows_out, **reasons}, ensure_ascii=False))
        return 0
    names = recommender.titles(history, domain)
    print(f"History ({who}), oldest first:", *(f"  {name}" for name in names or ["(empty)"]), sep="\n")
    print(f"Recommended in {domain} (score {given.score}, nats):")
    print(*(f"  {place}. {r.title}  {r.score:.2f}" for place, r in enumerate(found, 1)), sep="\n")
    if why:
        print(f"Why {found[0].title}:", why.describe(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
