import pytest
import torch
from torch import nn

from unirl import make
from unirl.errors import UserError
from unirl.optim import make_update
from unirl.optim.step import OPTIMIZERS


def quadratic(parameter, target):
    def closure(names):
        losses = {name: (parameter - target[name]).square().sum() for name in names}
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    return closure


def test_sgd_takes_the_step_of_its_formula():
    weight = nn.Parameter(torch.tensor([1.0]))
    update = make_update({"name": "sgd", "lr": 0.1}, {"policy": [weight]})
    update(quadratic(weight, {"policy": 0.0}))
    assert weight.item() == pytest.approx(0.8)  # 1 - 0.1 * 2 * 1


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}])
def test_adam_steps_as_torchs_own_and_after_a_reload_too(name, settings):
    ours, theirs = ([nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(5))] for _ in range(2))
    optimizer = OPTIMIZERS[name](ours, lr=0.01, **settings)
    reference = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](theirs, lr=0.01, fused=True, **settings)
    for step in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = torch.randn_like(one)
        if step % 3 == 0:  # a parameter without gradient stays where it is, and counts for itself
            ours[1].grad = theirs[1].grad = None
        optimizer.step()
        reference.step()
        if step == 3:
            state, optimizer = optimizer.state_dict(), OPTIMIZERS[name](ours, lr=0.01, **settings)
            optimizer.load_state_dict(state)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_losses_are_stepped_in_turn_and_see_each_others_changes():
    q, policy = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([0.0]))
    seen = []

    def closure(names):
        seen.append((tuple(names), q.item()))
        loss = q.square().sum() if names == ["q"] else (policy - q.detach()).square().sum()
        loss.backward()
        return {names[0]: loss.detach()}

    make_update({"name": "sgd", "lr": 0.25}, {"q": [q], "policy": [policy]})(closure)
    assert seen == [(("q",), 1.0), (("policy",), 0.5)]


def test_a_delayed_actor_is_stepped_every_second_time():
    q, policy = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    called = []

    def closure(names):
        called.extend(names)
        loss = sum(({"q": q, "policy": policy}[name].sum() for name in names), torch.zeros(()))
        loss.backward()
        return dict.fromkeys(names, loss.detach())

    update = make_update({"name": "sgd", "lr": 0.1, "actor_every": 2}, {"q": [q], "policy": [policy]})
    for _ in range(4):
        update(closure)
    assert called == ["q", "policy", "q", "q", "policy", "q"]


def test_the_gradient_norm_is_clipped_over_all_losses_together():
    a, b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))

    def closure(names):
        loss = 0.5 * (a.square() + b.square()).sum()  # gradient (3, 4), norm 5
        loss.backward()
        return dict.fromkeys(names, loss.detach())

    update = make_update({"name": "sgd", "lr": 1.0, "together": True, "clip_norm": 1.0}, {"value": [a], "policy": [b]})
    report = update(closure)
    assert report["gradient_norm/value+policy"] == pytest.approx(5.0)
    assert (a.item(), b.item()) == (pytest.approx(2.4), pytest.approx(3.2))  # minus (3, 4) / 5


def test_weight_decay_may_be_one_losses_alone():
    # sgd on w^2 from 1 at rate .1: 1 - .2; with a decay of .5 less .1 * .5
    weights = {name: nn.Parameter(torch.tensor([1.0])) for name in ("value", "policy")}
    options = {"name": "sgd", "lr": 0.1, "weight_decay": {"policy": 0.5}, "together": True}
    update = make_update(options, {name: [weight] for name, weight in weights.items()})

    def closure(stepped):
        losses = {name: weights[name].square().sum() for name in stepped}
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    update(closure)
    assert weights["value"].item() == pytest.approx(0.8)
    assert weights["policy"].item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": {"polcy": 0.1}}, "did you mean policy"),
        ({"weight_decay": "1e-4 "}, "weight_decay is '1e-4 '; give a number"),
        ({"weight_decay": -1}, "weight_decay is -1; give a number"),
        ({"eps": "small"}, "eps is 'small'; give something like 1e-8"),
        ({"betas": 0.9}, r"betas is 0.9; give something like \[0.9, 0.999\]"),
        ({"name": "sgd", "momentum": [0.9, 0.9]}, "momentum is"),
    ],
)
def test_wrong_settings_of_the_optimizer_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        make_update(options, {"policy": [nn.Parameter(torch.ones(1))]})


def test_the_linear_schedule_ends_at_zero():
    weight = nn.Parameter(torch.tensor([1.0]))
    update = make_update({"name": "sgd", "lr": 0.1, "schedule": "linear"}, {"policy": [weight]})
    update(quadratic(weight, {"policy": 0.0}), progress=1.0)
    assert weight.item() == 1.0


@pytest.mark.parametrize(
    ("progress", "constant", "cosine"),
    # sgd on w^2 from 1: 1 - 2 rate; the policy's rate is 0.1 (1 + cos(pi progress)) / 2
    [(0.0, 0.8, 0.8), (1 / 3, 0.8, 0.85), (0.5, 0.8, 0.9), (1.0, 0.8, 1.0)],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_schedule_per_loss_leaves_the_other_losses_rates_alone(progress, constant, cosine, together):
    names = ("value", "policy", "temperature")  # the last two are one block
    weights = {name: nn.Parameter(torch.tensor([1.0])) for name in names}
    options = {"name": "sgd", "lr": 0.1, "schedule": {"policy": "cosine"}, "together": together}
    update = make_update(options, {name: [weight] for name, weight in weights.items()})

    def closure(stepped):
        losses = {name: weights[name].square().sum() for name in stepped}
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}

    update(closure, progress)
    assert [weights[name].item() for name in names] == pytest.approx([constant, cosine, constant])


def test_a_default_schedule_is_for_the_losses_that_are_not_named():
    q, policy = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    schedule = {"default": "linear", "policy": "constant"}
    update = make_update({"name": "sgd", "lr": 0.1, "schedule": schedule}, {"q": [q], "policy": [policy]})

    def closure(names):
        loss = (q if names == ["q"] else policy).sum()
        loss.backward()
        return {names[0]: loss.detach()}

    update(closure, progress=0.25)
    assert (q.item(), policy.item()) == (pytest.approx(1 - 0.075), pytest.approx(0.9))


def test_rates_and_schedules_for_unknown_losses_or_of_unknown_names_are_one_clear_error():
    weight = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(UserError, match=r"unknown loss in method\.update\.schedule 'polcy' \(did you mean policy\?\)"):
        make_update({"schedule": {"polcy": "cosine"}}, {"policy": weight})
    with pytest.raises(UserError, match=r"unknown loss in method\.update\.lr 'critic' \(known: default, policy\)"):
        make_update({"lr": {"default": 0.1, "critic": 0.2}}, {"policy": weight})
    with pytest.raises(UserError, match=r"unknown update\.schedule 'cosin' \(did you mean cosine"):
        make_update({"schedule": {"policy": "cosin"}}, {"policy": weight})
    for wrong in ("cosin", None, ["cosine"], {"policy": None}):
        with pytest.raises(UserError, match=r"unknown update\.schedule"):
            make_update({"schedule": wrong}, {"policy": weight})


def test_the_rate_rises_during_warm_up():
    weight = nn.Parameter(torch.tensor([1.0]))
    update = make_update({"name": "sgd", "lr": 0.1, "warmup": 0.5}, {"policy": [weight]})
    update(quadratic(weight, {"policy": 0.0}), progress=0.249)  # half of the rate: 1 - 0.05 * 2
    assert weight.item() == pytest.approx(0.9)
    update(quadratic(weight, {"policy": 0.0}), progress=0.6)  # all of it: 0.9 - 0.1 * 1.8
    assert weight.item() == pytest.approx(0.72)


def bilinear(x, y):
    """min over x, max over y of x y: the losses are x y and -x y, each stepped on its own variable."""

    def closure(names):
        gradient_x, gradient_y = y.detach().clone(), -x.detach().clone()
        x.grad, y.grad = gradient_x, gradient_y
        return dict.fromkeys(names, torch.zeros(()))

    return closure


@pytest.mark.parametrize(("rule", "shrinks"), [("plain", False), ("extragradient", True)])
def test_extragradient_converges_on_the_bilinear_game_where_plain_descent_leaves(rule, shrinks):
    x, y = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    options = {"name": "sgd", "lr": 0.1, "together": True, "gradient": rule}
    update = make_update(options, {"policy": [x], "value": [y]})
    for _ in range(100):
        update(bilinear(x, y))
    # plain: the norm grows by sqrt(1 + 0.01) per step; extragradient: shrinks by sqrt((1 - 0.01)^2 + 0.01)
    factor = (0.99**2 + 0.01) ** 50 if shrinks else 1.01**50
    assert torch.hypot(x, y).item() == pytest.approx(2**0.5 * factor, rel=1e-4)


def test_conflicting_gradients_lose_their_conflict():
    weight = nn.Parameter(torch.zeros(2))
    directions = {"policy": torch.tensor([1.0, 0.0]), "value": torch.tensor([-1.0, 1.0])}

    def closure(names):
        loss = torch.stack([weight @ directions[name] for name in names]).sum()
        loss.backward()
        return dict.fromkeys(names, loss.detach())

    make("gradient", "project_conflicts")(closure, ["policy", "value"], [weight], 0.1)
    # g1 = (1,0), g2 = (-1,1), dot -1: g1' = (1,0) + (-1,1)/2 = (.5,.5); g2' = (-1,1) + (1,0) = (0,1)
    assert weight.grad.tolist() == [0.5, 1.5]


def test_evolution_finds_the_gradient_of_a_linear_loss_on_average():
    weight = nn.Parameter(torch.tensor([0.3, -0.2]))

    def closure(names):
        return {"policy": (weight @ torch.tensor([2.0, -1.0])).detach()}

    make("gradient", "evolution", pairs=4000, sigma=0.1)(closure, ["policy"], [weight], 0.1)
    # standard error of each entry: sqrt(g.g + g_i^2) / sqrt(n) <= 3 / 63 = 0.047
    assert torch.allclose(weight.grad, torch.tensor([2.0, -1.0]), atol=0.24)
    assert torch.allclose(weight, torch.tensor([0.3, -0.2]))


def test_averaged_weights_serve_evaluation_and_training_goes_on_from_the_last():
    weight = nn.Parameter(torch.tensor([4.0]))
    update = make_update({"name": "sgd", "lr": 0.25, "average": 1.0}, {"policy": [weight]})
    for _ in range(2):
        update(quadratic(weight, {"policy": 0.0}))  # 4 -> 2 -> 1
    with update.averaged_weights():
        assert weight.item() == pytest.approx(1.5)
    assert weight.item() == pytest.approx(1.0)


def test_a_wrong_update_key_or_rate_is_one_clear_error():
    weight = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(UserError, match=r"unknown update key 'clipnorm' \(did you mean clip_norm"):
        make_update({"clipnorm": 1.0}, {"policy": weight})
    with pytest.raises(UserError, match=r"update\.lr"):
        make_update({"lr": "fast"}, {"policy": weight})
    with pytest.raises(UserError, match=r"update\.name"):
        make_update({"name": "adamm"}, {"policy": weight})
