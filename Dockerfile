# docker build -t glmbot .                          answers without a model, or with one behind `backend: openai`
# docker build -t glmbot --build-arg EXTRAS=model . with torch and transformers as well
FROM python:3.12-slim AS build
ARG EXTRAS=""
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY bot ./bot
COPY plugins ./plugins
COPY model ./model
COPY cuda ./cuda
RUN python -m venv /opt/glmbot \
 && /opt/glmbot/bin/pip install --no-cache-dir -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim
ENV PATH=/opt/glmbot/bin:$PATH \
    GLMBOT_HOST=0.0.0.0 \
    GLMBOT_CUDA_CACHE=/var/lib/glmbot/cuda \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin glmbot \
 && install -d -o glmbot -g glmbot -m 0750 /var/lib/glmbot \
 && install -d /etc/glmbot
COPY --from=build /opt/glmbot /opt/glmbot
# What answers until a folder of yours is mounted on /etc/glmbot: the settings and the samples.
COPY deploy/config.yaml /etc/glmbot/config.yaml
COPY plugins/faq/sample/faq.zh.yaml /etc/glmbot/faq.yaml
COPY plugins/knowledge/sample /etc/glmbot/docs
USER glmbot
WORKDIR /var/lib/glmbot
VOLUME /var/lib/glmbot
EXPOSE 8080
# /healthz says that the process is alive; /readyz is the one to balance load by.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
# SIGTERM drains: give it time (docker stop -t 60).
STOPSIGNAL SIGTERM
ENTRYPOINT ["glmbot"]
CMD ["run", "-c", "/etc/glmbot/config.yaml"]
