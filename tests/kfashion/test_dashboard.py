"""What the dashboard says of a run: all that was measured, and null for the rest."""

import json

import pytest
from fastapi.testclient import TestClient

from common.errors import UserError
from common.files import read_json, write_json, write_text
from common.rundir import Run
from kfashion.service.dashboard import build_dashboard, newest_evaluation, newest_tuning, write_dashboard
from tests.kfashion.run_parts import (
    CENTRALITY,
    HEADER,
    QUERY_AWARE,
    RECORD,
    add_evaluation,
    add_report,
    add_retrieval,
    make_run,
)
from tests.kfashion.service_parts import VOCABULARY, application


def test_a_run_that_has_measured_nothing_invents_nothing(tmp_path):
    found = build_dashboard(make_run(tmp_path / "run"))
    kpi = found.kpi
    assert (kpi.total_items, kpi.train_split, kpi.validation_split) == (10, 8, 2)
    assert (kpi.current_epoch, kpi.total_epochs, kpi.progress_percentage) == (0, 4, 0)
    unknown = ("accuracy_source", "top_1_accuracy", "top_5_accuracy", "mrr", "positive_similarity_avg",
               "negative_similarity_avg", "embedding_l2_norm", "chance_top_5", "ci95_top_5", "status")  # fmt: skip
    assert [getattr(kpi, name) for name in unknown] == [None] * len(unknown)
    assert found.loss_curve == found.top_k_images == found.augmented_samples == []
    assert found.hyperparams.tuning is found.api_metrics is found.centrality is found.query_aware is None


def test_figures_of_training_are_those_of_the_epoch_that_the_run_keeps(tmp_path):
    rows = "0,2,3.0,2.0,0.1,0.3,0.05,0.2,1.0\n1,4,2.0,1.0,0.2,0.4,0.05,0.3,1.0\n2,6,1.0,1.5,0.9,0.9,0.05,0.9,1.0\n"
    kpi = build_dashboard(make_run(tmp_path / "run", metrics=HEADER + rows)).kpi
    assert (kpi.accuracy_source, kpi.accuracy_split) == ("training", "val")
    assert (kpi.top_1_accuracy, kpi.top_5_accuracy, kpi.mrr, kpi.chance_top_5) == (0.2, 0.4, 0.3, 0.05)
    assert kpi.ci95_top_5 is None
    assert kpi.progress_percentage == 75


def test_an_evaluation_goes_before_the_figures_of_training(tmp_path):
    run = make_run(tmp_path / "run", metrics=HEADER + "0,2,3.0,2.0,0.1,0.3,0.05,0.2,1.0\n")
    add_retrieval(run)
    found = build_dashboard(run)
    assert (found.kpi.accuracy_source, found.kpi.accuracy_split) == ("evaluation", "test")
    assert (found.kpi.top_1_accuracy, found.kpi.top_5_accuracy, found.kpi.mrr) == (0.25, 0.5, 0.375)
    assert (found.kpi.chance_top_5, found.kpi.ci95_top_5) == (0.125, (0.25, 0.75))
    assert (found.kpi.positive_similarity_avg, found.kpi.negative_similarity_avg) == (0.6, 0.1)
    assert found.top_k_images[0].query.fields.model_dump() == RECORD


def test_pictures_are_named_only_where_the_service_has_them(tmp_path):
    run = make_run(tmp_path / "run")
    add_retrieval(run)
    (search,) = build_dashboard(run, pictured=lambda ids: {"item01"} & set(ids)).top_k_images
    assert (search.query.image_url, search.results[0].image_url) == (None, "/images/item01")
    (search,) = build_dashboard(run).top_k_images
    assert search.results[0].image_url is None


def test_the_curve_tells_both_stages_with_the_rate_each_epoch_starts_with(tmp_path):
    first = make_run(tmp_path / "one", "kfashion_stage1", 0.1, metrics=HEADER + "0,2,3.0,2.0,,,,,\n")
    rows = "0,2,1.0,,,,,,0.5\n1,4,nan,0.25,,,,,1.0\n"
    curve = build_dashboard(make_run(tmp_path / "two", metrics=HEADER + rows, parent=first.path)).loss_curve
    assert [(row.stage, row.epoch) for row in curve] == [
        ("kfashion_stage1", 1), ("kfashion_stage2", 1), ("kfashion_stage2", 2)
    ]  # fmt: skip
    assert [row.lr for row in curve] == [0.1, 0.001, 0.0005]
    assert [row.train_loss for row in curve] == [3.0, 1.0, None]
    assert [row.val_loss for row in curve] == [2.0, None, 0.25]
    assert [row.l2_norm_mean for row in curve] == [None, 0.5, 1.0]


def test_a_parent_that_is_gone_leaves_the_curve_of_the_run(tmp_path):
    run = make_run(tmp_path / "two", metrics=HEADER + "0,2,1.0,1.0,,,,,\n", parent=tmp_path / "gone")
    assert [row.stage for row in build_dashboard(run).loss_curve] == ["kfashion_stage2"]


def test_the_newest_finished_evaluation_counts(tmp_path):
    run = make_run(tmp_path / "run")
    add_evaluation(run, "centrality", "2026-01-03_00-00-00", age_s=60, **{**CENTRALITY, "split": "val"})
    add_evaluation(run, "centrality", "2026-01-02_00-00-00", **CENTRALITY)
    (run.path / "evaluations" / "2026-01-04_00-00-00_kfashion_centrality").mkdir()  # has not ended
    assert build_dashboard(run).centrality.split == "test"
    assert newest_evaluation(run, "query_aware") is None


def test_paths_of_the_machine_are_not_told(tmp_path):
    run = make_run(tmp_path / "run")
    add_evaluation(run, "centrality", **CENTRALITY)
    add_evaluation(run, "query_aware", **QUERY_AWARE)
    (add_evaluation(run, "augmentation") / "summary.json").write_text("{")
    assert str(tmp_path) not in build_dashboard(run).model_dump_json()


def test_evaluations_of_centrality_and_of_kinds_of_queries_are_told_as_they_are(tmp_path):
    run = make_run(tmp_path / "run")
    add_evaluation(run, "centrality", **CENTRALITY)
    add_evaluation(run, "query_aware", **QUERY_AWARE)
    found = build_dashboard(run)
    assert (found.centrality.model_dump(), found.query_aware.model_dump()) == (CENTRALITY, QUERY_AWARE)
    assert found.problems == []


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\x00" * 99),
    "something else": lambda path: path.write_text("[1, 2]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_files_that_are_damaged_leave_their_sections_empty_and_are_named(app, damage):
    run, outputs = app.state.run, app.state.run.path.parents[1]
    add_retrieval(run)
    for name in ("centrality", "query_aware", "augmentation"):
        add_evaluation(run, name, **CENTRALITY)
    report = add_report(outputs, "study", "kfashion_stage2", 0)
    write_json(run.path / "summary.json", {})  # it has ended, so its files should be there
    run.write_status("done")
    for path in (*run.path.glob("evaluations/**/*.json"), *report.iterdir(), run.path / "status.json",
                 run.path / "environment.json"):  # fmt: skip
        damage(path)
    response = TestClient(app).get("/api/dashboard/kpi")
    found = response.json()
    assert response.status_code == 200
    assert found["centrality"] is found["query_aware"] is found["hyperparams"]["tuning"] is None
    assert found["top_k_images"] == found["loss_curve"] == found["augmented_samples"] == []
    assert found["kpi"]["top_5_accuracy"] is found["kpi"]["status"] is None
    assert {each["section"] for each in found["problems"]} >= {"kpi", "loss_curve"}
    assert str(run.path) not in response.text


@pytest.mark.parametrize("text", ["", "no table", HEADER + "0,2,many\n", HEADER + ",2,3.0\n", HEADER + "0," * 99])
def test_epochs_that_cannot_be_read_are_unknown_and_not_none(tmp_path, text):
    found = build_dashboard(make_run(tmp_path / "run", metrics=text))
    assert found.loss_curve == []
    assert found.kpi.current_epoch is found.kpi.progress_percentage is None
    assert [each.section for each in found.problems] == ["loss_curve"]


def test_the_reason_names_the_file_and_what_is_wrong_with_it(tmp_path):
    run = make_run(tmp_path / "run")
    add_evaluation(run, "centrality", **{**CENTRALITY, "all": {}})
    add_retrieval(run)
    (newest_evaluation(run, "retrieval") / "results" / "training_summary.json").unlink()
    found = build_dashboard(run)
    assert [(each.section, each.reason) for each in found.problems] == [
        ("kpi", "2026-01-01_00-00-00_kfashion_retrieval/results/training_summary.json: No such file or directory"),
        ("centrality", "evaluations/2026-01-01_00-00-00_kfashion_centrality/summary.json: all.count: Field required"),
    ]
    assert len(found.top_k_images) == 1  # the other file of the same evaluation is whole


def test_a_run_whose_config_is_gone_is_no_failure_of_the_service(app):
    (app.state.run.path / "config.yaml").unlink()
    response = TestClient(app).get("/api/dashboard/kpi")
    assert (response.status_code, response.json()["error_code"]) == (503, "NOT_READY")


def test_samples_of_augmentation_are_shown_as_they_were_made(tmp_path):
    run = make_run(tmp_path / "run")
    sample = {"kind": "json", "method": "mixing", "original": RECORD, "augmented": {**RECORD, "style": []}}
    add_evaluation(run, "augmentation", augmented_samples=[{**sample, "item_id": "a"}])
    assert [each.model_dump() for each in build_dashboard(run).augmented_samples] == [sample]


def test_the_last_report_on_a_study_of_the_same_experiment_tells_the_tuning(tmp_path):
    add_report(tmp_path, "old", "kfashion_stage2", 120)
    newest = add_report(tmp_path, "new", "kfashion_stage2", 60)
    add_report(tmp_path, "other", "lasps_phase1", 0)
    assert newest_tuning(tmp_path, "kfashion_stage2") == newest
    assert newest_tuning(tmp_path, "kfashion_stage1") is None
    tuning = build_dashboard(make_run(tmp_path / "run"), newest).hyperparams.tuning
    assert (tuning.study, tuning.n_trials, tuning.best_value) == ("new", 2, 0.75)
    assert tuning.best_params == {"optim.lr": 0.001}
    assert tuning.trials[0] == {"trial": 0, "state": "pruned", "val/hit_at_5": None, "optim.lr": 0.01}


def test_settings_are_those_of_the_config(tmp_path):
    current = build_dashboard(make_run(tmp_path / "run")).hyperparams.current
    assert current == {"batch_size": 64, "epochs": 4, "learning_rate": 0.001, "seed": 3, "image_encoder": "pixels",
                       "optimizer": "torch.optim.AdamW", "field_dim": 8, "temperature": 0.07}  # fmt: skip


def test_the_record_is_written_as_a_file_too(tmp_path):
    run = make_run(tmp_path / "outputs" / "kfashion_stage2" / "run")
    add_report(tmp_path / "outputs", "study", "kfashion_stage2", 0)
    output = run.path / "evaluations" / "now_kfashion_dashboard"
    assert write_dashboard([run], "val", output, None)["total_items"] == 10
    written = read_json(output / "results" / "dashboard.json")
    assert written["hyperparams"]["tuning"]["study"] == "study"
    assert {**written, "timestamp": 0} == {
        **build_dashboard(run, tmp_path / "outputs" / "sweep" / "study").model_dump(mode="json"), "timestamp": 0
    }  # fmt: skip
    with pytest.raises(UserError, match="judges one run"):
        write_dashboard([run, run], "val", output, None)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        build_dashboard(Run(tmp_path))


def test_pictures_of_augmentation_are_served_by_their_names_only(app):
    sample = {"kind": "image", "method": "view", "original": "0.jpg", "augmented": "0_view.jpg"}
    folder = add_evaluation(app.state.run, "augmentation", augmented_samples=[sample])
    write_text(folder / "results" / "augmented_pictures" / "0_view.jpg", "the view")
    client = TestClient(app)
    (shown,) = client.get("/api/dashboard/kpi").json()["augmented_samples"]
    assert client.get(shown["augmented"]).text == "the view"
    assert client.get(shown["original"]).status_code == 404  # no such file
    assert client.get("/api/dashboard/samples/..%2F0_view.jpg").status_code == 404
    assert client.get("/api/dashboard/samples/summary.json").status_code == 422


@pytest.fixture
def app(tmp_path):
    app = application(tmp_path / "catalogue.db")
    app.state.run = make_run(tmp_path / "outputs" / "kfashion_stage2" / "<b>run")
    return app


def test_the_service_tells_the_record_with_its_own_figures(app):
    client = TestClient(app)
    record = client.get("/api/dashboard/kpi").json()
    assert set(record) >= {"kpi", "loss_curve", "top_k_images", "hyperparams", "augmented_samples"}
    assert record["kpi"]["top_5_accuracy"] is None
    assert record["api_metrics"]["recommendation_count"] == 0
    client.post("/api/recommend/style", json={"style_description": {"category": "레트로"}})
    live = client.get("/api/dashboard/live").json()
    assert live["recommendation_count"] == 1
    assert set(live) == set(app.state.recommender.metrics.snapshot())
    tokens = client.get("/api/dashboard/vocabulary").json()
    assert tokens == {field: list(each) for field, each in VOCABULARY.tokens.items()}


def test_the_page_and_its_files_are_local_and_escaped(app):
    client = TestClient(app)
    page = client.get("/")
    assert "&lt;b&gt;run" in page.text
    assert "http" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("dashboard.css", "dashboard.js", "charts.js", "labels.js", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200
    assert client.get("/page/index.html").status_code == 404
    assert client.get("/page/..%2Fdashboard.py").status_code == 404


def test_before_the_models_are_loaded_the_record_is_told_without_live_figures(app):
    app.state.recommender = None
    client = TestClient(app)
    assert client.get("/api/dashboard/kpi").json()["api_metrics"] is None
    refused = client.get("/api/dashboard/vocabulary")
    assert (refused.status_code, json.loads(refused.text)["error_code"]) == (503, "NOT_READY")
