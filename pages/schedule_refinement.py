"""Which learning-rate schedule would the gradients of the last run have asked for?"""

from normviz.experiments.schedule_refinement.refinement_curves import guarantee_figure, refinement_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_rows_widget

INTRO = r"""
A **schedule** multiplies the learning rate: it says how far to step at each moment of a run. Practice warms up at first
and goes down to 0 at the end; theory long asked for steps that stay, and for an average of all points on the way. The
paper shows where practice is right. For the *last* point of a run, **linear decay** is the best choice if nothing is
known about the gradients but how large they can be.

If their norms are known, one can do better. So:

1. **Run once**, here with linear decay, and record the norm of the gradient at every step.
2. **Refine**: smooth the norms, weigh each step by 1/norm² (SGD) or 1/norm (Adam), and multiply each weight by the sum
   of the weights that are still to come.
3. **Run again** with that schedule, and search for its learning rate anew: the norms tell the shape, not the size.

What comes out looks like what people had found by trying: norms that fall early give a **warm-up**, norms that rise
late a faster end. *Bend the norms* shows it without any run: drag the sliders.

The page compares the refined schedule with linear decay, cosine, 1/√t, 1/t and a flat learning rate. All start from the
same weights, see the same batches, and have the same grid of learning rates; each is judged at its own best.
"""

READING = r"""
**The order of things.** First the grey line grows: the first run, in which only norms are recorded. Then all schedules
run side by side from a new start. Each line of *Gap to the minimum* (of *Held-out loss* on text and digits) is the
lowest over its learning rates at that moment, so it is no single run. *The schedules* has the refined one as soon as
the norms are there.

**Where the shape comes from.** *Gradient norms* → *The weights they give* → *The schedules*. The weight of a step is
large where the norm is small, and the sum of the weights to come falls to 0: their product rises as long as the weights
grow faster than the rest shrinks. With constant norms it is linear decay exactly, and the last step has size 0.

**The search for the learning rate** must be made again for each schedule. *Each schedule's own learning rate* shows the
loss at the end for all of them: a flat schedule wants smaller steps, one with a warm-up and a decay bears larger ones.
*At its own best rate, and untuned* says what one would have concluded without the search. A line that is lowest at the
end of the grid could be lower still beyond it.

**What does not work.** *Norms that vanish*: digits are fitted perfectly, the norms shrink by orders of magnitude, and
the weights put nearly all of the run's steps late, where norms are small. The schedule has its maximum late, a long
warm-up that nobody would choose. This is no error of the computation but a limit of the method: theory takes the norms
as given, whatever the steps, while here they shrink *because* of the steps. *Noise keeps them up* has the same network
with 40 % wrong labels. *Without smoothing* shows why there is a median filter: the weights of raw norms jump from step
to step, and so does what is called a schedule then. The digits can also be *MNIST-1D* or *MNIST*, which are harder to
fit: do the norms vanish there too?

**The second run costs as much as the first.** A gain from refinement must be worth it; a run of twice the length is
the rival that this page does not show.

**Theory's own ground.** For the two regressions the minimum is known. The dashed lines of *Gap to the minimum* are what
theory promises at the end; *How loose theory's bound is* divides them by what is measured. Linear decay at the theory's
rate must stay below $DG/\sqrt T$, and does, by far, since theory thinks of the worst loss that there is. The refined
schedule's bound takes the norms of the first run for those of the second; the others have the bound for arbitrary
steps, which is not tight.
"""

EXACT = Exact(
    "Bend the norms",
    r"""
You draw the norms of the first run: how large they are at the start, until when they fall, and what they do at the end.
The schedule follows while you drag; nothing is run, and nothing is smoothed.

Try: start 1, end 1 (linear decay). Start 5 (a warm-up). End 5 (a faster decay than linear). End 0.05, norms that vanish
(the maximum goes to the very end).
""",
    lambda: {"refinement": refinement_figure(), "guarantee": guarantee_figure()},
)

MATHS = (
    Maths(
        "From norms to weights",
        r"""
The norms $G_1, …, G_T$ of the first run are smoothed by a median over a window of the width $\tau T$, then

$$w_t = \hat G_t^{-2} \;\text{ (SGD, $\ell_2$ norms)} \qquad w_t = \hat G_t^{-1} \;\text{ (Adam, $\ell_1$ norms)}$$

Both minimise the bound of the last iterate, for SGD and for methods that work coordinate by coordinate.
""",
        "schedules/refined_schedule.py",
        ("smooth_gradient_norms", "refinement_weights"),
    ),
    Maths(
        "From weights to a schedule",
        r"""
$$m_t = w_t \sum_{s=t+1}^{T} w_s, \qquad \text{multiplier}_t = \frac{m_t}{\max_s m_s}$$

$m_T = 0$, and $w_t = 1$ gives $(T-t)/(T-1)$. The multiplier rises from $t$ to $t+1$ if and only if

$$w_{t+1} \sum_{s>t+1} w_s > w_t \sum_{s>t} w_s$$

that is, if the weights grow faster than what is left of them shrinks: a warm-up.
""",
        "schedules/refined_schedule.py",
        ("refine_schedule", "refine_from_norms"),
    ),
    Maths(
        "The schedulers",
        r"""
Every schedule is a scheduler of PyTorch; the learning rates of a grid are the parameter groups of one optimizer, which
it scales alike. With the offset $b$:

$$\text{linear: } 1 - t/T \qquad 1/\sqrt t: \sqrt{b/(b+t)} \qquad 1/t: b/(b+t)$$
""",
        "schedules/multiplier_lr.py",
        ("RefinedScheduleLR", "LinearDecayLR", "InverseSqrtLR", "InverseTimeLR"),
    ),
    Maths(
        "Recording",
        r"""
The norm of the whole gradient, $\ell_1$ or $\ell_2$ over all parameters together, after the backward pass and before
any clipping. It stays on its device until it is read.
""",
        "schedules/gradient_norms.py",
        ("GradientNormRecorder.record",),
    ),
    Maths(
        "Why the last iterate",
        r"""
For any learner with iterates $z_t$ and weights $w_t \ge 0$, the point that moves with its steps, shrunk,

$$x_{t+1} = x_t + \frac{w_{t+1:T}}{w_{1:T}} (z_{t+1} - z_t)$$

has $f(x_T) - f(u) \le \frac{1}{w_{1:T}} \sum_t w_t \langle g_t, z_t - u\rangle$ in expectation, for convex $f$. For
gradient descent the shrunk steps are $\eta w_t\, w_{t+1:T}/w_{1:T}$: the schedule above.
""",
        "schedules/scheduled_iterates.py",
        ("ScheduledIterates.step",),
        "the reference",
    ),
    Maths(
        "What theory promises",
        r"""
With the distance $D$ from the first point to the minimiser, and the best $\eta$,

$$f(x_T) - f^* \le \frac{D \sqrt{\sum_t w_t^2 G_t^2}}{\sum_t w_t}$$

which is $DG/\sqrt T$ for $w_t = 1$, $G_t \le G$, and smallest for $w_t = G_t^{-2}$: $D/\sqrt{\sum_t G_t^{-2}}$. For
weights from the norms of another run this is a heuristic. For any steps $\lambda_t$, with $S_k = \sum_{t \ge k}
\lambda_t$:

$$f(x_T) - f^* \le \frac{D^2}{2 S_1} + \frac12 \sum_{k<T} \frac{\lambda_k^2 G_k^2}{S_{k+1}} + \frac12 \lambda_T G_T^2$$
""",
        "schedules/last_iterate.py",
        ("theory_learning_rates", "last_iterate_bound"),
    ),
)

experiment_page(
    "schedule-refinement",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_rows_widget},
    exact=EXACT,
)
