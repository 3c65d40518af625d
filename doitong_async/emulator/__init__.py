"""A local emulator of the Doitong API, for tests and trials; it shares no code with the client."""

from doitong_async.emulator.api import ResetUnit
from doitong_async.emulator.faults import Fault, parse_fault
from doitong_async.emulator.graphql import ErrorStatus
from doitong_async.emulator.jobs import Durations, Job
from doitong_async.emulator.limits import PLANS, PlanLimits
from doitong_async.emulator.orders import Order
from doitong_async.emulator.script import Faults
from doitong_async.emulator.server import Emulator
from doitong_async.emulator.traffic import Kind, Seen
from doitong_async.emulator.webhooks import Posted
from doitong_async.emulator.world import OverConcurrency, World

__all__ = [
    "PLANS",
    "Durations",
    "Emulator",
    "ErrorStatus",
    "Fault",
    "Faults",
    "Job",
    "Kind",
    "Order",
    "OverConcurrency",
    "PlanLimits",
    "Posted",
    "ResetUnit",
    "Seen",
    "World",
    "parse_fault",
]
