"""Can the strategy of what to ask next be learned?"""

from normviz.experiments.active_learning.two_arms import two_arm_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.panels.active_learning import question_panel

INTRO = r"""
**Active learning**: you may ask a few noisy questions, choose each one after seeing the answers so far, and must then
decide. Which of three slot machines pays best? Where on a line do labels change? Which animal does somebody think of?

A **policy** says what to ask next. Those from theory (uniform, elimination, binary search) are made for budgets of
thousands. Here the policy is a small network, trained for a handful of questions, against an **adversary** who looks
for the problems on which it does worst.

The plain worst case is no good goal: some problems are impossible for everybody, and they would rule. So problems are
sorted by a **complexity** $C$, about the number of questions that they need, into nested **classes** $C \le r$. For
each class one **expert** is trained. The **robust policy** is then trained to be close to *all* experts at once: what
counts is the largest **gap** between its worst loss in a class and that of the class's expert.

Its rivals: **Minimax**, the same training without the experts; **Fixed prior**, trained on problems that do not move;
**Uniform**, **Round robin**, **Elimination** and **binary search**, hard and soft, which are not trained.
"""

READING = r"""
**How to read it.** *Worst case in each class* has one line per policy: the largest expected loss over fresh problems up
to that complexity. Losses are exact sums over all questions and answers, not samples. The robust policy's line is that
of the network as it is now: first it trains as an expert of the easiest class, then of the next, and at the end for all
classes together. Only the best iterate so far is shown, chosen on other problems, because the game with the adversary
goes in circles.

**Hardest problems now** are the adversary's. For slot machines they end in a corner: one arm wins in about half of its
pulls, the others never. With four pulls nobody can tell such arms apart if the good one happens to lose, and chance
decides. That is why all trained policies and the uniform one lie so close together in the hardest class.

**What is asked when** shows where the strategies differ: elimination goes through all arms in turn, a trained policy
returns to the arms that are still in doubt.

**Every test problem, one dot** shows more than the worst case: on most problems the trained policies lose clearly less
than the uniform one, even where their worst cases are alike.

**Attack at the end.** The last measurement starts from the worst fresh problems and moves them by gradient ascent.
What is found so is what the verdicts use (*More charts*, *Gap on problems that fight back*). A largest loss over drawn
problems alone flatters every policy.

**Twenty questions** trains nothing. With one wrong answer in five, binary search has struck out the true animal early
in half of the games and does not recover: its line stops rising, and with one animal left it asks the first question
again and again. Soft search only lowers the animal's probability.
"""

EXACT = Exact(
    "Twenty questions and a formula",
    r"""
Two arms and $T$ questions in closed form: the chart follows its slider while you drag. Where $C$ is far above $T$ the
decision is a coin flip, and yet the regret is small: the arms are nearly equal. Below it you play.
""",
    lambda: {"two_arms": two_arm_figure()},
    question_panel,
)

MATHS = (
    Maths(
        "Complexity",
        r"""
Answers to question $x$ have mean $\langle x,\theta\rangle$; the best decision is
$z^* = \arg\max_z\langle z,\theta\rangle$.

$$C(\theta) = \min_\lambda \max_{z\ne z^*}
\frac{\lVert z^*-z\rVert^2_{A(\lambda)^{-1}}}{\langle z^*-z,\theta\rangle^2},\qquad A(\lambda)=\sum_x\lambda_x xx^\top$$

About $C\log(1/\delta)$ questions identify $z^*$ with probability $1-\delta$. $C(c\theta) = C(\theta)/c^2$; for two
arms $C = 4/\Delta^2$.
""",
        "adaptive/design_complexity.py",
        ("complexity", "solve"),
    ),
    Maths(
        "The outer game",
        r"""
With $\ell(\pi,\theta)$ the expected loss and $\Theta^{(r)} = \{\theta: C(\theta)\le r\}$:

$$\pi_* = \arg\min_\pi \max_k\Bigl\{\sup_{\theta\in\Theta^{(r_k)}}\ell(\pi,\theta) - \hat\ell_k\Bigr\},\qquad
\hat\ell_k = \min_\pi \sup_{\theta\in\Theta^{(r_k)}}\ell(\pi,\theta)$$

The experts are trained one after the other, each from the one before; then the robust policy. The page takes one
update per step, in this order; the library's function does the same at once.
""",
        "adaptive/robust_policy.py",
        ("learn_robust_policy",),
        "the reference",
    ),
    Maths(
        "The inner game",
        r"""
$N$ particles $\theta_i$ with weights $\lambda = \operatorname{softmax}(w)$ (and a small uniform share):

$$\min_\psi\max_{\theta,w}\;\sum_i\lambda_i\,[\ell(\pi_\psi,\theta_i)-\hat\ell_{k(i)}]$$

From a batch of episodes: $\psi$ descends along $\ell\sum_t\nabla\log\pi_\psi(x_t\mid h_{t-1})$, each $\theta_i$ ascends
along $\nabla_\theta\ell + \ell\sum_t\nabla_\theta\log f(y_t\mid x_t,\theta_i)$ and is projected back onto its class,
$w$ ascends along $\ell\,(\mathbf 1_i-\lambda)$. The mean of the other episodes is subtracted from $\ell$.
""",
        "adaptive/adversarial_trainer.py",
        ("AdversarialTrainer.step", "AdversarialTrainer._gradients"),
    ),
    Maths(
        "Exact losses",
        r"""
$$\mathrm E[\ell] = \sum_{x_1,y_1,\dots,x_T,y_T}\;\prod_t\pi(x_t\mid h_{t-1})\,f(y_t\mid x_t,\theta)\;\ell(\hat
z(h_T),\theta)$$

Histories with the same counts are one. The sum is differentiable in $\theta$: the attack at the end follows its
gradient.
""",
        "adaptive/policy_rollout.py",
        ("exact_expected_loss",),
    ),
    Maths(
        "The network and the decision",
        r"""
Per option: how often it was asked, how often the answer was yes, and the time. One small network reads these for each
option together with the mean over options, so that renaming arms renames its answer (on a line: all options at once).

$$\hat z = \arg\max_z\langle z,\hat\theta\rangle,\qquad \hat\theta = (A+0.1\,I)^{-1}\sum_t x_t(2y_t-1)$$
""",
        "adaptive/history_policy.py",
        ("HistoryPolicy.forward", "recommend"),
    ),
    Maths(
        "Binary search, hard and soft",
        r"""
$$w_z\propto(1-\varepsilon)^{\text{agree}}\,\varepsilon^{\text{disagree}},\qquad
x_{t+1} = \arg\min_x\Bigl|\sum_z w_z\operatorname{sign}\langle x,z\rangle\Bigr|$$

$\varepsilon = 0$ is binary search without noise: one wrong answer strikes out the truth.
""",
        "adaptive/query_policies.py",
        ("GeneralizedBinarySearchPolicy",),
    ),
)

experiment_page("active-learning", intro=INTRO, reading=READING, maths=MATHS, exact=EXACT)
