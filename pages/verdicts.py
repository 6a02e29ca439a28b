"""How verdicts are made: the rules, how often they are wrong, what they cannot say, the scale of the papers."""

from normviz.ui.method import method_page

RULES = """
Every page tests what its papers claim. A claim is written down before its result is looked at: what is measured, the
setting, and the rule that decides.

**One number per seed.** A seed fixes the start of the network, the split into training and held-out examples, and the
batches. All variants of a seed see the same batches of the same split from the same start. What is compared is the
difference (or the ratio) of two variants in each seed, so that luck which both share cancels.

**One interval.** Around the mean over seeds stands a 95 % interval (Student's t). It is never narrower than the metric
can resolve: two equal accuracies do not give an interval of width zero.

**Five outcomes.** Each claim states the smallest effect that counts (the *floor*) and, where the paper gives a figure
that a small experiment can be held to, a *bar*.

| outcome | when |
|---|---|
| reproduced | the whole interval lies beyond the bar (beyond the floor, if there is no bar) |
| weaker than claimed | the whole interval lies on the claimed side of no effect, and below the bar |
| no effect seen | the whole interval is closer to no effect than the floor |
| opposite | the whole interval lies on the other side |
| undecided | anything else |

**Divergence and gaps.** A variant that diverges in a seed counts on the bad side in that seed. A seed without a number
is never left out: the claim is undecided, and the seed is named. A run that was cut short is not measured.

**Several rivals.** A claim against several rivals has one interval for each, and all must hold.

**Many claims.** A page judges many claims at once, and some would pass by chance. Beside each outcome stands the one
that is corrected for their number (Holm's method).

**Identities.** Some statements are true by construction, or are counts of bytes. They are checked, have a badge of
their own, and are never counted as evidence.

**Fair rates.** Where variants are compared for quality, each is trained with several learning rates on other seeds
first, and then judged at its own best. The recorded evidence lists every value that was tried.

**Seeds.** A recorded verdict has five seeds or more. With fewer, a page says *so far*.
"""

LIMITS = """
- They say what happens in these small networks on these data. A claim that is not seen here may hold at the paper's
  scale; a claim that is seen here may fail there.
- *Reproduced* means that the effect is there and as large as the rule asks for. It does not say that the paper's
  explanation is right.
- *No effect seen* means that the effect is smaller than the floor. It does not mean that there is none.
- Seeds measure the luck of the start, of the split and of the batches. The splits of two seeds are drawn from the same
  examples, so that the numbers of two seeds are not wholly independent. Seeds do not measure the choice of the task, of
  the network, or of what else could have been tuned.
- Student's t takes the numbers of seeds to be close to normal. With five seeds that cannot be checked.
- Many settings were looked at while the pages were built. The deciding presets were fixed before the recorded seeds
  were run, but the questions were not chosen blindly.
"""

SCALE = """
The papers train on one to many accelerators for hours to weeks: language models of 60 million to several billion
parameters on billions of tokens, image models on ImageNet, agents on hundreds of millions of frames. A run here has
networks of some thousand to a few hundred thousand parameters, hundreds of steps, and takes seconds to minutes on two
processor cores. Each claim shows the paper's own figure with its setting, so that the distance can be seen.
"""

method_page(RULES, LIMITS, SCALE)
