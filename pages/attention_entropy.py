"""What does linear attention lose when it forgets the norm of the query?"""

from normviz.experiments.attention_entropy.query_norm import entropy_curves_figure, query_row_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.corpus import corpus_widget

INTRO = r"""
Attention lets every token look at all others: a **row** of weights says how much it looks at each. The **entropy** of
the row tells how it looks. High entropy: at all tokens alike. Low entropy: at a few, or at one.

Softmax attention forms all $N \times N$ weights, so twice the text costs four times the time. **Linear attention** uses
$\phi(q)\cdot\phi(k)$ in place of $e^{q\cdot k}$ and never forms the matrix. But something gets lost. In softmax the
*length* of a query works as a temperature: a query twice as long gives a sharper row. With $\phi = \mathrm{ReLU}$ the
length is a common factor of the whole row and cancels when the row is normalised: the token can choose *where* to look,
but no longer *how sharply*.

**NaLaFormer** puts the length back. It raises the query's direction to a power that grows with its length (a high power
makes large coordinates larger against small ones), and keeps the signs of the coordinates in angles, so that opposite
signs give no weight and nothing becomes negative.

The same small transformer is trained with each kernel between the same projections: on handwritten digits of which each
of the 64 pixels is a token, or on text. Two arms leave out a part of NaLa: *fixed power* ignores the length again, and
*clipped* sets negative coordinates to zero instead of keeping their signs as angles.
"""

READING = r"""
**How to read it.** The *attention maps* show one digit (or text): a row is a token that looks, a column a token that is
looked at, and yellow is eight times an even look or more. *Entropy* and *accuracy* follow the training. *Doubling |q|*
measures the paper's point: take the network's own queries, make them twice as long, and see whether the rows get
sharper. Softmax must go down, ReLU and FLatten cannot. NaLa goes down, but by little: its power is
$\lambda(\tau+\tanh|q|)$, and the queries of these networks are longer than 2 (see *Norm of the queries*), where tanh
has nearly reached 1. The *correlation*, under *More charts*, is the paper's Figure 1. It can differ from zero for ReLU
too, where the length has no effect at all, because long queries may have directions of their own. That is why both are
shown.

*Random queries* needs no training: the same directions and keys at eight lengths. NaLa starts lower than the others and
falls by less than softmax. Much of what sets NaLa's rows apart is the third power of the keys, which FLatten has too.

**Beyond the presets.** Raise λ alone: all rows get sharper. Take one block or four, or a width of 64. With *MNIST* as
the data an image side of 12 or 16 shows details that digits of 8 x 8 pixels do not have. On text, in runs this short,
NaLa tends to learn a little more slowly than the others.

**Time and memory** are those of the attention alone, one head of width 16, one CPU thread. The fused softmax of PyTorch
never stores its matrix, so its memory grows linearly as well; its time does not. Softmax that does form the matrix
grows faster than $N^2$ where the matrix outgrows the processor's cache. The linear forms stay below 1 as long as fixed
costs count.

**What is not tested here.** ImageNet, ADE20K, super-resolution, a language model of 340M parameters, Long Range Arena:
they need those data and days of training. *Longer sequences* stands in for the last: 256 tokens, where Long Range
Arena has thousands. The paper's networks add convolutions and rotary embeddings, and keep softmax
in their last two stages; here is the kernel alone.
"""

EXACT = Exact(
    "One row, by hand",
    r"""
Here nothing is trained. On the left one query looks at 24 random keys; drag $|q|$ and watch the rows. Softmax goes from
an even look to a single bar. ReLU and FLatten do not move at all. NaLa moves between $|q| = 0$ and 2, and stands still
beyond: set τ to 0.1 and λ to 5 to give it the widest range. Its two forms differ only if α is small, when the angles
of small coordinates are not yet far apart.

On the right the same over many rows: the mean entropy at every norm. All scores are plain products $q\cdot k$; real
softmax attention divides by $\sqrt d$, which stretches its curve to the right.
""",
    lambda: {"row": query_row_figure(), "curves": entropy_curves_figure()},
)

MATHS = (
    Maths(
        "Entropy and the norm",
        r"""
For a row $a$ of non-negative weights

$$\mathrm{PSE}(a) = -\sum_i \frac{a_i}{s}\log\frac{a_i}{s} \qquad s = \sum_i a_i$$

For softmax rows $p = \mathrm{softmax}(c\,s)$, with $c$ the norm of the query:

$$\frac{dH}{dc} = -c\,\mathrm{Var}_p(s) \le 0$$

For $\phi(cq) = c\,\phi(q)$ the factor $c$ cancels: $H$ does not depend on it.
""",
        "attention/_attention_weights.py",
        ("positive_sequence_entropy", "attention_weights"),
    ),
    Maths(
        "Norm-aware features",
        r"""
With $d(x) = x/\lVert x\rVert$, $p(r) = \lambda(\tau+\tanh r)$, $\theta(x) = \tfrac\pi4\tanh(\alpha\,d(x))$:

$$\phi_q(q) = |d(q)|^{p(\lVert q\rVert)} \odot [\cos\theta(q);\ \sin\theta(q)]$$

$$\phi_k(k) = |k|^{\lambda} \odot [\cos\theta(k);\ \sin\theta(k)]$$

so that $\phi_q\cdot\phi_k = \sum_i |d(q)_i|^p\,|k_i|^\lambda \cos(\theta_i(q)-\theta_i(k)) \ge 0$: the angles differ by
at most $\pi/2$.
""",
        "attention/_feature_maps.py",
        ("NormAwareFeatureMap",),
    ),
    Maths(
        "Linear attention",
        r"""
$$o_i = \frac{\phi_q(q_i)\,\bigl(\tfrac1N\sum_j \phi_k(k_j)\,v_j^\top\bigr)}
{\phi_q(q_i)\cdot\tfrac1N\sum_j\phi_k(k_j) + 10^{-6}}$$

Both sums are formed once: $O(N d\,d_v)$. For text they run over $j \le i$, in chunks, or token by token with a state of
fixed size.
""",
        "attention/_linear_forms.py",
        ("bidirectional_form", "causal_form"),
    ),
    Maths(
        "Measured while training",
        r"""
The share of the greatest entropy $H/\log N$ (for text $H_i/\log i$), Pearson's correlation with $\lVert q\rVert$ head
by head (for text among rows of equal position), and the change when every $q$ becomes $2q$.
""",
        "probes/attention.py",
        ("row_entropy", "entropy_norm_correlation", "AttentionEntropy._measured"),
    ),
)

experiment_page(
    "attention-entropy",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"corpus": corpus_widget},
    exact=EXACT,
)
