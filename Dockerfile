# One image for every process of Rapport: `rapport serve`, `worker`, `scheduler`, `runner`, `db upgrade`.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/rapport
COPY pyproject.toml constraints.txt README.md ./
COPY service service
COPY memory memory
COPY sessions sessions
COPY migrations migrations
RUN /opt/rapport/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.13-slim
COPY --from=build /opt/rapport /opt/rapport
RUN useradd --system --create-home --home-dir /var/lib/rapport --shell /usr/sbin/nologin rapport
USER rapport
WORKDIR /var/lib/rapport
# One BLAS thread: the embedder brings its own, and two pools fight over the cores. Nothing is fetched at run time.
ENV PATH=/opt/rapport/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    HF_HUB_OFFLINE=1 \
    RAPPORT_HOME=/var/lib/rapport \
    RAPPORT_HOST=0.0.0.0 \
    RAPPORT_PORT=8000
EXPOSE 8000
ENTRYPOINT ["rapport"]
CMD ["serve"]
