"""Critics: what a value network is regressed on, and with which loss. The parts never see a network.

A critic names the networks it needs (`requirements()`), the regression target (`target(batch)`, detached) and the
loss per decision (`loss(batch)` [N, T], summed over heads). Their hyper-parameters `target` and `loss` carry the
names of those methods, which a dataclass would overwrite; therefore these are plain classes with keyword-only
arguments.
"""

import unirl.critics.q
import unirl.critics.v  # noqa: F401
