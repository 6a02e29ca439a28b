"""What do matrix-aware optimizers do to the singular values of an update?"""

from normviz.experiments.optimizer_spectra.maps import map_figures
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.corpus import corpus_widget

INTRO = r"""
Adam treats a weight matrix as a list of unrelated numbers. But a matrix maps vectors to vectors, and what a change of
it does depends on its **singular values**: along how many directions does it act, and how strongly along each?
Gradients of real networks are lopsided. A few directions hold almost everything, and plain gradient descent moves in
these alone.
The optimizers on this page all reshape the gradient *as a matrix* before they step:

- **Muon** keeps the directions of the (averaged) gradient and makes all singular values about equal.
- **NorMuon** adds what Muon leaves uneven: it also gives every row, that is every *neuron*, the same step length.
- **SinkGD** scales rows and columns to equal length in turn, until both hold. It remembers nothing between steps.
- **SWAN** scales rows, then equalises the singular values. It remembers nothing either.
- **Conda** runs Adam, but in the coordinates of the gradient's own singular directions.
- **GaLore** runs Adam only in the $r$ strongest directions, to save memory, and drops the rest of the gradient.
- **Fira** is GaLore with the rest added again, scaled as Adam would have scaled it, and kept from growing fast.

Beside them stand plain gradient descent (SGD), AdamW, Adafactor, and parts of the methods alone: GradNorm and Whitening
are SWAN's two halves, *Conda, one basis* never renews its directions, *Fira, no limiter* lets the rest grow. Two rivals
are here for Conda and for Fira: **SOAP** runs Adam in the eigenbases of two running averages, of $GG^\top$ and of
$G^\top G$; **LoRA** leaves each matrix as it was drawn and trains a product of two thin matrices beside it, of the rank
that Fira has.

The same network is trained with each of them, on the same batches from the same start. **Every optimizer gets its own
grid of learning rates**; the charts show the best one, chosen by the lowest final validation loss (by the loss itself
where nothing is held out), and one chart shows the whole grid. Only the weight matrices inside the network
differ: embeddings, output layer and biases are stepped by the same AdamW, without weight decay, in every arm. Bands are
the range over seeds.
"""

READING = r"""
**How to read it.** The two spectra belong together: one shows what the optimizer was given, the other what it made of
it. Drag the moment slider and watch them change. A **condition number** (largest over smallest singular value) of 1
would be a flat line; the *effective rank* counts how many directions carry the update. Muon and SWAN are flat by
design, up to the smallest values, which their few iterations do not lift; SinkGD is not flat: equal rows and columns do
not make equal singular values. GaLore looks well conditioned because only its $r$ directions are counted.

The chart of conditioning against row balance is NorMuon's central picture. For a *tall* matrix Muon cannot have both a
flat spectrum and even rows; NorMuon gains the second and loses a little of the first. In the *wide* matrix the rows of
an exactly orthogonal update have equal length anyway. In the matrix equation and in text Muon comes close to that, and
NorMuon has little left to do; on the digits, whose gradients hold few directions, it still evens the rows. *MNIST-1D*
and *MNIST* can be chosen as the data: do their gradients hold more?

**How claims are judged.** A choice among learning rates must not be made on the numbers that are judged: the lowest of
three noisy losses is low by chance, too. So each seed is judged at the rate that is best on average over the *other*
seeds; the charts show the rate that is best over all. Set the learning rates to one per optimizer and move the factor:
many differences between optimizers then turn around.

**What cannot be shown here.** Runs here are short and networks tiny; the papers' perplexities on LLaMA up to 7B cannot
be repeated here, nor Fira's memory at 7B, nor the throughput on many GPUs. On a CPU with small matrices the optimizer
takes a large part of a step, so in the chart against time the cheap ones look better than they are at scale. Conda's
and Fira's bases are renewed every 20 steps, not every 200 to 2000. The digits and the matrix equation run in double
precision, so that small singular values are not lost in rounding; in text, in single precision, those below the
rounding of the weights are left out. SWAN's cheap *diagonal* whitening, whose scaling the paper leaves open, turns the
strongest directions of such lopsided gradients around and does not learn here.
"""

EXACT = r"""
Both iterations act on each singular value alone, so one curve describes them completely. Muon starts from the singular
value over the Frobenius norm, SWAN from its own scaling; SWAN's result is rescaled at the end, so only *flatness*
counts, not height.
"""

MATHS = (
    Maths(
        "SinkGD",
        r"""
Rows to length $\sqrt n$, then columns to length $\sqrt m$, $L$ times. Every iterate is $D_1 G D_2$ with diagonal
matrices, so only two vectors are iterated, on the squares $S = Y\!\circ Y$ of the row-scaled gradient $Y$:

$$d \leftarrow \sqrt n \,/\, \sqrt{S c^2} \qquad c \leftarrow \sqrt m \,/\, \sqrt{S^\top d^2}$$

$$W \leftarrow W - \eta\,\alpha\, \operatorname{diag}(d)\, Y \operatorname{diag}(c)$$

Each half-step is the best direction under one norm, $\arg\max_{g(Z)\le 1}\langle X, Z\rangle$; alternating them seeks a
direction that is normalised under both. Nothing is remembered.
""",
        "optim/multinorm.py",
        ("sr_sinkhorn", "balance", "SinkGD.matrix_step"),
    ),
    Maths(
        "SWAN",
        r"""
Rows are standardised, then whitened, then brought back to the size before:

$$N_{ij} = \frac{G_{ij}-\bar g_i}{s_i} \qquad D \approx (N N^\top)^{-1/2} N$$

The root comes from a coupled iteration, with $Y = N N^\top/c$ and $Z = I$ at the start, both from the old values:

$$T = \beta\,(3I - ZY) \qquad Y \leftarrow Y T \qquad Z \leftarrow T Z$$

Every singular value follows $x \leftarrow \beta x (3 - x^2)$. At the usual $\beta = 0.8$ that does not converge.
""",
        "optim/swan.py",
        ("grad_norm", "grad_whitening", "swan_update"),
    ),
    Maths(
        "Muon",
        r"""
Momentum, orthogonalised. With $M = U S V^\top$ the update is $U S' V^\top$ with all $S'$ near 1:

$$M \leftarrow \mu M + (1-\mu) G \qquad X = M / \lVert M\rVert_F$$

$$X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^\top$$

five times. Only matrix products: no singular value decomposition.
""",
        "optim/newton_schulz.py",
        ("orthogonalize",),
    ),
    Maths(
        "NorMuon",
        r"""
After Muon's $O$, one running mean square per row (neuron), and the size of the whole restored:

$$v_i \leftarrow \beta_2 v_i + (1-\beta_2)\,\tfrac1n \lVert O_i\rVert^2 \qquad
H_i = \frac{O_i}{\sqrt{v_i}+\varepsilon}$$

$$W \leftarrow W - \eta\, H\, \frac{\lVert O\rVert_F}{\lVert H\rVert_F} \sqrt{\max(1, m/n)}$$

Over several machines each matrix is orthogonalised by one of them only; sorted by size and dealt out, the work is
even.
""",
        "optim/normuon.py",
        ("row_divisors", "rescale_factor", "NorMuon._update"),
    ),
    Maths(
        "Conda",
        r"""
Adam in the singular basis $U$ of its own momentum, renewed every $T$ steps:

$$M \leftarrow \beta_1 M + (1-\beta_1) G \qquad V \leftarrow \beta_2 V + (1-\beta_2)\,(U^\top G)^2$$

$$W \leftarrow W - \eta\,\alpha\, U\, \frac{U^\top M}{\sqrt V + \varepsilon}$$

Muon divides by one diagonal for all columns; Conda gives every column its own.
""",
        "optim/conda.py",
        ("Conda.projected_step",),
        "the formula",
    ),
    Maths(
        "GaLore",
        r"""
Adam on the $r$ leading coordinates of the gradient, with $P = U_r$ renewed every $T$ steps:

$$R = P^\top G \qquad N = \frac{m}{\sqrt v + \varepsilon} \qquad W \leftarrow W - \eta\,\alpha\, P N$$

Memory: $2\,r \max(m,n) + r \min(m,n)$ numbers instead of Adam's $2mn$. What lies outside $P$ is lost.
""",
        "optim/galore.py",
        ("LowRankOptimizer.projected_step",),
        "the formula",
    ),
    Maths(
        "Fira",
        r"""
What GaLore drops is sent through, each column scaled by the factor by which Adam rescaled it in the subspace:

$$\phi_j = \frac{\lVert N_{:,j}\rVert}{\lVert R_{:,j}\rVert} \qquad S = \phi \circ (G - \alpha P P^\top G)$$

$$q = \max\!\Big(\frac{\lVert S\rVert}{\lVert S_{t-1}\rVert}, \gamma\Big)/\gamma \qquad
W \leftarrow W - \eta\,(\alpha P N + S/q)$$

The limiter $q$ lets the norm of $S$ grow by at most $\gamma = 1.01$ per step.
""",
        "optim/fira.py",
        ("norm_scaling_factor", "_excess", "_FiraDirection.direction"),
        "the formula",
    ),
)

experiment_page(
    "optimizer-spectra",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"corpus": corpus_widget},
    exact=Exact("What the iterations do to a singular value", EXACT, map_figures),
)
