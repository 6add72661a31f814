"""Checks of CASE-NAME. Each class is a group, with a cell, a service and data of its own.

harness check CASE-NAME evals/references/CASE-NAME/good
"""

import pytest

from harness.checks import Service, logs


class TestCounting:
    @pytest.mark.criterion("api.contract")
    def test_counts_per_door(self, service: Service) -> None:
        service.http.post("/doors/north")
        reply = service.http.post("/doors/north")
        assert reply.status_code == 200, f"POST /doors/north gave {reply.status_code}, wanted 200"
        assert reply.json() == {"door": "north", "count": 2}, f"second visitor gave {reply.text}"

    @pytest.mark.criterion("api.contract")
    def test_an_unknown_door_is_not_found(self, service: Service) -> None:
        reply = service.http.get("/doors/nobody-came")
        assert reply.status_code == 404, f"a door without visitors gave {reply.status_code}"

    @pytest.mark.criterion("logs.structured")
    def test_log_lines_are_json(self, service: Service) -> None:
        service.http.post("/doors/west")
        logs.assert_structured(service)


class TestCrash:
    @pytest.mark.criterion("data.durable")
    def test_a_count_survives_a_kill(self, service: Service) -> None:
        for _ in range(20):
            assert service.http.post("/doors/south").status_code == 200
        service.kill()
        service.start()
        count = service.http.get("/doors/south").json()["count"]
        assert count == 20, f"20 visitors were acknowledged, {count} are left after a kill"
