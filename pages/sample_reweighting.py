"""Which samples of a batch should count more, judging by nothing but their loss?"""

from normviz.ui import Maths, experiment_page
from normviz.ui.corpus import corpus_widget

INTRO = r"""
Training averages the losses of a batch: every sample counts the same. But samples differ. Some have been seen so often
that there is nothing left to learn from them (**low loss**). Some are broken (**high loss**, for ever). The useful
ones lie in between. This method gives each sample of the present batch a **weight** that depends on its loss only, and
works it out anew at every step, from losses one has anyway:

1. squeeze the losses of the batch to $h \in [-1, 1]$: the easiest sample is at $-1$, the hardest at $1$;
2. give each a score $s = f(h)$. *LinUpper* rises up to the middle and then stays level: easy samples lose weight, but
   no sample gains by being extremely hard. *Quadratic* favours the middle, *Extremes* both ends, *Upper* is LinUpper
   without its cap;
3. turn scores into weights by a softmax with temperature $r$.

Here a small transformer reads Python's documentation into which text of low quality was mixed: a few passages that come
**again and again** (*duplicated* on the charts), passages with **shuffled** characters, and passages in a **foreign**
language (letters replaced by ROT13). It is trained once per strategy, from the same start, on the same batches.
"""

READING = r"""
**How to read it.** *Weight against loss* is the method: drag $r$ and see who would get how much. Then, in the language
task, follow the repeated passages. At first they are as hard as anything else. Within a few dozen steps they are known
by heart, their dots move to the left end, and the strategies that push the left end down spend the freed weight on text
that is still new. The price is on *Loss by kind of text*: the repeated passages are learned less well, which is what
the method intends. *Who got the weight* shows the samples themselves. All strategies are compared after **equally many
steps**, by losses in which every sample counts the same; the weighted loss counts hard samples more, so it is no fair
comparison.

**When nothing repeats.** There is then nothing to take weight from, and what LinUpper adds to the hardest samples goes
to text that teaches nothing; Quadratic gives less weight to both ends. Lower $r$: under Extremes a few samples at the
ends then take nearly everything, under LinUpper never fewer than all above the middle of the losses. In *Linear
regression* all samples can be fitted at once as long as no target is corrupted, and the mean gap must stay below its
bound. Corrupted targets have the largest losses, and weight on them does harm.

**What cannot be shown here.** The paper trains GPT-2 with 124M to 684M parameters and Llama models with 1.4B and 7B.
It reports that the gain grows with size and adds to that of domain mixing (DoGE, DoReMi), which decides what is drawn,
while these weights act on what was drawn. Neither can be seen on a network of 110,000 parameters.
"""

MATHS = (
    Maths(
        "From losses to weights",
        r"""
For the losses $l_1 \dots l_M$ of a batch (mean over the tokens of a sample; a batch on several devices counts as one):

$$h_i = \frac{2 l_i - l_{\max} - l_{\min}}{l_{\max} - l_{\min}}, \qquad s_i = f(h_i)$$

| strategy | $f(h)$ |
|---|---|
| LinUpper | $\min(h + 1,\, 1)$ |
| Quadratic | $1 - h^2$ |
| Extremes | $\lvert h \rvert$ |
| Upper | $(h+1)/2$ |

$$w_i = \frac{e^{s_i/r}}{\sum_j e^{s_j/r}}$$

Since $f$ lies in $[0,1]$, no weight is more than $e^{1/r}$ times another.
""",
        "weighting/loss_weights.py",
        ("linupper", "quadratic", "extremes", "upper", "normalized", "weights_where"),
    ),
    Maths(
        "Where the softmax comes from",
        r"""
The weights solve a problem with two aims: favour high scores, and stay close to uniform weights.

$$w = \arg\max_{w \ge 0,\ \sum w = 1}\ \sum_i w_i s_i - r\, \mathrm{KL}(w \,\|\, \text{uniform})$$

with the optimal value $r \log \frac1M \sum_i e^{s_i/r}$. With the plain loss as score this is known as
KL-regularised distributionally robust optimisation. $r \to \infty$ gives uniform weights.
""",
        "weighting/reweighting_bounds.py",
        ("kl_dro_value",),
        label="the formula",
    ),
    Maths(
        "The loss",
        r"""
$$L = \sum_i w_i\, l_i, \qquad w \text{ constant}$$

No gradient flows through $w$. On device $k$ of $W$: $L_k = W \sum_{i \in k} w_i l_i$, because averaging gradients over
devices divides by $W$. Before the warm-up is over $w_i = 1/M$; at evaluation always.
""",
        "weighting/loss_reweighting.py",
        ("DynamicLossReweighter.forward",),
    ),
    Maths(
        "The bound",
        r"""
Convex losses $f_i$ with curvature at most $L$ and a common minimiser $\theta^*$; $\Delta_i = f_i(\theta) -
f_i(\theta^*)$; steps of size $\eta \le 1/L$. Then

$$\frac1T \sum_t \overline{\Delta^t} \ \le\ \frac{|\theta_0-\theta^*|^2}{2 \eta T}
- \frac1T \sum_t \sum_i \Big(w_i^t - \frac1M\Big) \Delta_i^t$$

The last sum is positive whenever weight rises with the loss (LinUpper, Upper): the bound is then tighter than that of
uniform weights. For Quadratic it can be negative. Derived here in the paper's setting, without its constants.
""",
        "weighting/reweighting_bounds.py",
        ("weighted_gap_bound",),
    ),
)

experiment_page(
    "sample-reweighting",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"corpus": corpus_widget},
)
