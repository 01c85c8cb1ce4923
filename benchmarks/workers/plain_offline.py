"""TD3+BC and IQL as single-file implementations do their updates (CORL's arithmetic): `plain_offline.py CHUNK METHOD`.

One module per network, targets as deep copies that move parameter by parameter, torch's Adam, float32, batches of 256,
layers of 256; the transitions are tensors in memory. A step makes the same number of forward and backward passes as
theirs. There is no logging and no evaluation.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

import hopper_data
import torch
from pacer import Pacer
from torch import Tensor, nn
from torch.nn import functional as F

WARM_UP, BATCH, HIDDEN, GAMMA, TAU = 300, 256, 256, 0.99, 0.005
Rows = Mapping[str, Tensor]


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


def follow(target: nn.Module, source: nn.Module) -> None:
    """Move a target towards its source."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.data.copy_((1 - TAU) * slow.data + TAU * fast.data)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimizer step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def td3_bc() -> Callable[[int, Rows], None]:
    """TD3+BC: two critics, an actor every other step (Fujimoto & Gu 2021)."""
    state, action = hopper_data.OBSERVATION, hopper_data.ACTION
    actor = nn.Sequential(network(state, action), nn.Tanh())
    critics = [network(state + action, 1) for _ in range(2)]
    slow_actor, slow_critics = copy.deepcopy(actor), copy.deepcopy(critics)
    of_actor = torch.optim.Adam(actor.parameters(), lr=3e-4)
    of_critics = [torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in critics]

    def update(count: int, rows: Rows) -> None:
        here, taken, following = rows["observations"], rows["actions"], rows["next_observations"]
        with torch.no_grad():
            noise = (torch.randn_like(taken) * 0.2).clamp(-0.5, 0.5)
            chosen = torch.cat([following, (slow_actor(following) + noise).clamp(-1, 1)], 1)
            rest = torch.min(*(critic(chosen) for critic in slow_critics))
            target = rows["rewards"] + (1 - rows["terminals"]) * GAMMA * rest
        both = torch.cat([here, taken], 1)
        loss = sum((F.mse_loss(critic(both), target) for critic in critics), torch.zeros(()))
        for optimizer in of_critics:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in of_critics:
            optimizer.step()
        if count % 2:
            return
        own = actor(here)
        q = critics[0](torch.cat([here, own], 1))
        step(of_actor, -2.5 / q.abs().mean().detach() * q.mean() + F.mse_loss(own, taken))
        for slow, fast in zip([slow_actor, *slow_critics], [actor, *critics], strict=True):
            follow(slow, fast)

    return update


def iql() -> Callable[[int, Rows], None]:
    """IQL: expectile of the target critics, twin critics, advantage-weighted Gaussian actor (Kostrikov et al. 2022)."""
    state, action = hopper_data.OBSERVATION, hopper_data.ACTION
    actor, log_std = nn.Sequential(network(state, action), nn.Tanh()), nn.Parameter(torch.zeros(action))
    value, critics = network(state, 1), nn.ModuleList(network(state + action, 1) for _ in range(2))
    slow = copy.deepcopy(critics)
    of_actor = torch.optim.Adam([*actor.parameters(), log_std], lr=3e-4)
    of_value = torch.optim.Adam(value.parameters(), lr=3e-4)
    of_critics = torch.optim.Adam(critics.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(of_actor, 1_000_000)

    def update(count: int, rows: Rows) -> None:
        here, taken = rows["observations"], rows["actions"]
        both = torch.cat([here, taken], 1)
        with torch.no_grad():
            following = value(rows["next_observations"])
            best = torch.min(*(critic(both) for critic in slow))
        advantage = best - value(here)
        step(of_value, ((0.7 - (advantage < 0).float()).abs() * advantage**2).mean())
        target = rows["rewards"] + (1 - rows["terminals"]) * GAMMA * following
        step(of_critics, sum((F.mse_loss(critic(both), target) for critic in critics), torch.zeros(())) / 2)
        follow(slow, critics)
        weight = (3.0 * advantage.detach()).exp().clamp(max=100.0).squeeze(-1)
        policy = torch.distributions.Normal(actor(here), log_std.clamp(-20, 2).exp())
        step(of_actor, -(weight * policy.log_prob(taken).sum(-1)).mean())
        schedule.step()

    return update


def main(chunk: int, method: str) -> None:
    """Sample and update until the harness stops asking."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pacer = Pacer(chunk)
    data = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in hopper_data.arrays().items()}
    data = {name: values if values.dim() == 2 else values[:, None] for name, values in data.items()}
    update = {"td3_bc": td3_bc, "iql": iql}[method]()
    for count in range(10**9):
        some = torch.randint(hopper_data.ROWS, (BATCH,))
        update(count, {name: values[some] for name, values in data.items() if name != "timeouts"})
        if count == WARM_UP:
            pacer.ready(torch=version("torch"))
        elif count > WARM_UP:
            pacer.tick()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
