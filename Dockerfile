# The image that `cargo xtask image` writes without a container engine. Where there is one, two commands make the same:
#
#     cargo xtask image
#     docker build --tag kubesphere/ks-installer:v3.3.1 .
#
# The first leaves in target/image/root what the image holds: the static binary, certificates, an empty /tmp.
FROM scratch
COPY target/image/root/ /
USER 65532:65532
ENTRYPOINT ["/ks-installer"]
CMD ["operator"]
LABEL org.opencontainers.image.description="Upgrades KubeSphere on a Kubernetes cluster that somebody else set up"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.title="ks-installer"
