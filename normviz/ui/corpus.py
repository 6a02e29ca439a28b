"""The widget for the text to train on: the built-in documentation or a reader's own file."""

from __future__ import annotations

import streamlit as st

from normviz.knobs import Control
from normviz.ui.plain import plain
from normviz.uploads import BUILT_IN, MAX_BYTES, TextUploadError, keep_text

__all__ = ["corpus_widget"]


def corpus_widget(control: Control, key: str) -> None:
    """Choose among the built-in text and the texts uploaded in this visit; a refused upload says why."""
    known: dict[str, str] = st.session_state.setdefault("uploaded texts", {})
    uploaded = st.file_uploader(
        "Your own text",
        type=["txt", "md", "py", "rst", "tex", "csv", "html"],
        help=f"UTF-8 text of at most {MAX_BYTES // 1000} kB. It stays on this machine.",
        key=f"{key}/file",
    )
    if uploaded is not None and uploaded.file_id != st.session_state.get(f"{key}/seen"):
        st.session_state[f"{key}/seen"] = uploaded.file_id
        st.session_state.pop(f"{key}/refused", None)
        try:
            chosen = keep_text(uploaded.getvalue(), uploaded.name)
        except TextUploadError as error:
            st.session_state[f"{key}/refused"] = str(error)
        else:
            known[chosen] = uploaded.name
            st.session_state[key] = chosen
    if refused := st.session_state.get(f"{key}/refused"):
        st.error(plain(refused), icon=":material/description:")
    options = list(dict.fromkeys([BUILT_IN, *known, st.session_state[key]]))
    names = {BUILT_IN: "Python's documentation", **known}
    st.selectbox(control.label, options, format_func=lambda k: names.get(k, k), key=key, help=control.help)
