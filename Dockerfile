# The app in a container: docker build -t normviz . && docker run --rm -p 127.0.0.1:8501:8501 normviz
# For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130, and docker run --gpus all.
FROM python:3.13-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    NORMVIZ_DATA=/data \
    NORMVIZ_THREADS=1

WORKDIR /app
COPY requirements.txt ./
RUN torch=$(grep '^torch==' requirements.txt) \
    && pip install --index-url "$TORCH_INDEX" "$torch" \
    && pip install -r requirements.txt

COPY pyproject.toml README.md LICENSE app.py ./
COPY .streamlit ./.streamlit
COPY models ./models
COPY normviz ./normviz
COPY pages ./pages
COPY evidence ./evidence
RUN pip install --no-deps --editable . \
    && useradd --create-home --uid 1000 reader \
    && mkdir /data \
    && chown reader /data

USER reader
VOLUME /data
EXPOSE 8501
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
CMD ["normviz", "app", "--port", "8501", "--address", "0.0.0.0"]
