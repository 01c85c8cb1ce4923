"""Critics: what a value network is regressed on, and with which loss. The parts never see a network.

A critic names the networks it needs (`requirements()`), the regression target (`target(batch)`, detached) and the
loss per decision (`loss(batch)` [N, T], summed over heads). Their hyper-parameters `target` and `loss` carry the
names of those methods, which a dataclass would overwrite; therefore these are plain classes with keyword-only
arguments.
"""

import unirl.critics.advantage_guided
import unirl.critics.behavior
import unirl.critics.conservative
import unirl.critics.cost
import unirl.critics.dice
import unirl.critics.diversity
import unirl.critics.dual_q
import unirl.critics.dynamics
import unirl.critics.expert_discriminator
import unirl.critics.gaussian
import unirl.critics.joint
import unirl.critics.nodes
import unirl.critics.q
import unirl.critics.quantiles
import unirl.critics.recoil
import unirl.critics.rectified_huber
import unirl.critics.reward_head
import unirl.critics.subset
import unirl.critics.v  # noqa: F401
