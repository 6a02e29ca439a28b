"""By what should a reward be divided before a policy learns from it?"""

from normviz.ui import Maths, experiment_page

INTRO = r"""
A language model is trained by **reinforcement learning** on questions whose answers can be checked: it writes several
answers to a question, each is right (reward $R = 1$) or wrong ($R = 0$), and right ones are made more probable. How
much weight an answer gets is its **advantage**. Most methods start from $R - p$, the reward minus the share $p$ of
right answers to that question: being right counts more where that is rare. They differ in what they *divide* by:

- **REINFORCE with baseline** (on the charts: REINFORCE-b) by nothing;
- **GRPO** by $\sqrt{p\,(1-p)}$, the spread of the rewards, which lifts very easy and very hard questions;
- **BNPO** by a density that follows the policy. The accuracies $p$ of all questions are spread like a **Beta**
  distribution. BNPO fits it to every batch and derives from it the density whose division leaves the least variance
  in the gradient, under an assumption that is tested here.

The policy here is a network with 9,000 parameters that answers 300 questions such as 7 + 8 or 6 × 9 in two tokens. It
is first taught by examples until it is right in about a third of the cases, then every method continues from there,
with the same questions and the same random numbers. With so few possible answers, the probability of being right is
computed exactly.

**A name used twice.** TRL and other libraries have an option `loss_type="bnpo"`. It divides the summed loss by the
number of tokens in the batch, and has nothing to do with the method of this page, which normalises **rewards** by a
Beta distribution.
"""

READING = r"""
**How to read it.** The map shows the policy itself: a square for each of the 300 questions, light where it is answered
right. The histogram shows the same accuracies as a distribution, with the Beta that BNPO fits to it. A good policy
pushes them to both ends, where $a$ and $b$ fall below 1 and BNPO moves towards the plain baseline. Both show BNPO's
policy; a click on another arm in the legend shows that one's.

*What R − p is multiplied by* (under *More charts*) is the method: drag $a$ and $b$, the Beta distribution of the
accuracies. At $a = b = 1.5$ BNPO is GRPO, towards $0$ it is no normaliser at all; if most questions are hard ($b$
large), hard questions get a small weight each.

The noise chart asks each method about the same rewards at the same policy, and divides variance by the squared mean, so
that a method gains nothing by making all advantages smaller. At the start BNPO is the least noisy. Late in training
REINFORCE without a baseline is: right answers then have small gradients, and the rare wrong ones, whose gradients are
large, get no advantage at all.

**Where theory and measurement part.** The theorem assumes that the size of $\nabla \log \pi$ has nothing to do with the
advantage. Watch the second moments: as the policy gets sure of itself, its rare wrong answers come with large gradients
*and* large advantages, and the measured moment climbs above the theoretical one. What is smallest in theory need not be
smallest then.

**Two rewards.** Two digits are learned within ten steps, first at the cost of the right number. BNPO takes the two
rewards apart, and a reward that is always earned drops out. *Summed BNPO* adds them first: then all $p$ come to lie in
a narrow heap at one half, where the fitted density is a spike, and the few questions beside it get enormous weights.

**What cannot be shown here.** The paper trains Qwen2.5-Math with 1.5B and 7B parameters on MATH, with thousands of
tokens per answer, 32 questions by 16 answers per batch, Adam at $10^{-6}$. This is arithmetic in two tokens; a
ranking of methods here says nothing about that scale.
"""

MATHS = (
    Maths(
        "BNPO",
        r"""
For $Q$ questions with $G$ answers each, and 0/1 rewards $R$:

$$p_q = \tfrac1G \sum_g R_{qg}, \quad m = \overline{p},\quad v = \operatorname{var} p$$

$$\kappa = \frac{m(1-m)}{v} - 1$$

$$a = \kappa m,\quad b = \kappa (1-m)$$

$$\alpha = \max(1 + \tfrac a3,\, 1)$$

$$\beta = \max(1 + \tfrac b3,\, 1)$$

$$f(p) = \frac{p^{\alpha-1}(1-p)^{\beta-1}}{B(\alpha,\beta)}$$

$$A_{qg} = \frac{R_{qg} - p_q}{f(p_q)}$$

No gradient flows through any of this, and nothing is remembered from batch to batch.
""",
        "weighting/bnpo.py",
        ("bnpo_advantage",),
    ),
    Maths(
        "The fit",
        r"""
The Beta distribution is fitted by its mean and (unbiased) variance. If all $p$ are equal, $\alpha = \beta = 1$; $a$
or $b$ below zero, possible in small batches, is clamped there too. $1/f$ is capped at $10^6$; for $p = 0$ and $p = 1$
the advantage is exactly 0.
""",
        "weighting/beta_normalizer.py",
        ("moments", "normaliser", "inverse_density"),
    ),
    Maths(
        "The theorem",
        r"""
If $p \sim \mathrm{Beta}(a,b)$, $R \mid p$ is Bernoulli, and $|\nabla\log\pi|^2$ is uncorrelated with $A^2$, the
gradient's second moment is $\mathrm{E}|\nabla\log\pi|^2$ times

$$V(\alpha,\beta) = \mathrm{E}\Big[\frac{(R-p)^2}{f(p)^2}\Big]
= \frac{B(\alpha,\beta)^2\, B(a+3-2\alpha,\ b+3-2\beta)}{B(a,b)}$$

It is finite for $\alpha < \frac{a+3}{2}$, $\beta < \frac{b+3}{2}$ and smallest at $\alpha = 1 + \frac a3$,
$\beta = 1 + \frac b3$. GRPO ($\alpha = \beta = \frac32$) has $V = (\pi/8)^2$ whatever $a$ and $b$. It is the second
moment, not the variance: they agree where the mean gradient is small beside its noise.
""",
        "weighting/beta_normalizer.py",
        ("gradient_second_moment",),
    ),
    Maths(
        "Several rewards",
        r"""
With $K$ rewards (here: the number is right; it has two digits), each has its own $p$, $a$, $b$, $\alpha$, $\beta$:

$$A = \frac1K \sum_k A^{(k)}$$

A mean of advantages, not the advantage of the mean reward. The arm *Summed BNPO* gets
$(R^{(1)} + R^{(2)})/2$ instead.
""",
        "weighting/bnpo.py",
        ("decomposed_advantage",),
    ),
    Maths(
        "The others",
        r"""
| method | advantage |
|---|---|
| REINFORCE | $R$ |
| REINFORCE-b | $R - p$ |
| GRPO | $(R-p)/(\mathrm{std} + 10^{-6})$ |
| RLOO | $R$ − mean of the other answers |
| ReMax | $R$ − reward of the greedy answer |
| REINFORCE++ | $R$ whitened over the batch |
| REINFORCE++b | $R - p$ whitened over the batch |

BNPO with $\alpha=\beta=1$ is the second line, with $\alpha=\beta=\frac32$ it is $\frac\pi8$ times the third.
""",
        "weighting/_group_baselines.py",
        ("baseline_advantage", "whitened"),
    ),
    Maths(
        "The loss",
        r"""
With the ratio $\rho = \pi/\pi_{\text{old}}$ of a token's probabilities:

$$L = \max\big(-A\rho,\ -A\,\mathrm{clip}(\rho,\, 0.8,\, 1.28)\big)$$

and for $A < 0$ at most $-10A$. Summed over the tokens of an answer, averaged over answers. With one update per batch,
as here, $\rho = 1$ and the gradient is $-A\,\nabla\log\pi$.
""",
        "weighting/policy_loss.py",
        ("clipped_policy_loss",),
    ),
)

experiment_page("reward-normalization", intro=INTRO, reading=READING, maths=MATHS)
