"""The Ray cluster that the tests share: damage by a test is found, and the next test has a Ray cluster all the same."""

import pytest
from shared_ray import TO_JOIN, SharedRay

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.mark.parametrize("name", TO_JOIN)
def test_changed_variable_is_found(
    shared_ray: SharedRay, cluster: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shared_ray.damage() is None
    monkeypatch.delenv(name)
    assert f"'{name}': None" in str(shared_ray.damage())
    monkeypatch.undo()
    assert shared_ray.damage() is None


@pytest.mark.nightly
def test_ray_that_was_shut_down_is_found_and_replaced(shared_ray: SharedRay, cluster: str) -> None:
    import ray

    ray.shutdown()
    assert shared_ray.damage() == "it was shut down"
    shared_ray.restart()
    assert shared_ray.damage() is None
    assert [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"]] == [2]
    assert shared_ray.start() == ray.get_runtime_context().gcs_address != cluster
