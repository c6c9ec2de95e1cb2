//! What a KubeSphere release is: version, compatibility, components, manifests, images, access catalog.
