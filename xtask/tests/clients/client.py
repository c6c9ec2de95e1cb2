"""What a program with Kubernetes' own Python package does with a cluster, and what it may expect of one.

It takes the cluster of $KUBECONFIG, says a line per step, and ends with 1 if anything was not as a real Kubernetes has
it. A section ends at its first failure, the others still run. Arguments name the sections to run; without any all of
them are.
"""

import base64
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

PATIENCE = 60
IMAGE = "web:1"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Failed(Exception):
    """Something is not as a real Kubernetes has it."""


def check(holds, what):
    if not holds:
        raise Failed(what)


def equal(found, expected, what):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


@contextlib.contextmanager
def refused(code, reason, *parts):
    """The request within must be refused, with this status and these parts of the message."""
    try:
        yield
    except ApiException as error:
        equal(error.status, code, f"the code of {error.body}")
        status = json.loads(error.body)
        equal(status["kind"], "Status", "the kind of an error")
        equal(status["status"], "Failure", "the status of an error")
        equal(status.get("reason"), reason, "the reason of an error")
        for part in parts:
            check(part in status["message"], f"no {part!r} in the error: {status['message']}")
    else:
        raise Failed(f"no error, expected a {reason} ({code})")


def plain(answer):
    """An answer as it came. What a deletion answers is either the object or a status, so the package has no type for it."""
    return client.ApiClient().sanitize_for_serialization(answer)


class Section:
    """One section at work, with a namespace and a folder of its own."""

    def __init__(self, name, namespace, folder):
        self.name = name
        self.namespace = namespace
        self.folder = folder
        self.differences = []
        self.core = client.CoreV1Api()
        self.apps = client.AppsV1Api()

    def step(self, text):
        print(f"{self.name}: {text}", flush=True)

    def eventually(self, what, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            check(time.monotonic() < end, f"waited in vain for {what}")
            time.sleep(0.1)

    def config_map(self, name, data=None, labels=None):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)
        return self.core.create_namespaced_config_map(self.namespace, body)

    def rolled_out(self, name):
        def is_done():
            found = self.apps.read_namespaced_deployment_status(name, self.namespace)
            status, wanted = found.status, found.spec.replicas
            return (
                status.observed_generation == found.metadata.generation
                and status.updated_replicas == wanted
                and status.replicas == wanted
                and status.available_replicas == wanted
            )

        self.eventually(f"the rollout of {name}", is_done)


def pod_template(labels=None, restart_policy=None):
    container = client.V1Container(name="web", image=IMAGE, ports=[client.V1ContainerPort(name="http", container_port=80)])
    spec = client.V1PodSpec(containers=[container], restart_policy=restart_policy)
    return client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=spec)


def deployment(name, replicas):
    labels = {"app": name}
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name, labels=labels),
        spec=client.V1DeploymentSpec(
            replicas=replicas,
            selector=client.V1LabelSelector(match_labels=labels),
            template=pod_template(labels),
        ),
    )


def versions(s):
    """What the server says of itself."""
    version = client.VersionApi().get_code()
    check(version.git_version.startswith("v1.") and version.major == "1", f"a strange version: {version}")
    s.step(f"talks to Kubernetes {version.git_version}")
    equal(client.CoreApi().get_api_versions().versions, ["v1"], "the versions of the core")
    groups = {group.name: group.preferred_version.version for group in client.ApisApi().get_api_versions().groups}
    equal(groups.get("apps"), "v1", "the preferred version of apps")
    resources = {resource.name: resource for resource in client.AppsV1Api().get_api_resources().resources}
    equal(resources["deployments"].short_names, ["deploy"], "the short name of Deployments")
    check("deployments/scale" in resources, "no scale of Deployments")
    s.step("lists groups and resources")


def objects(s):
    """Objects, each way of writing them, and the errors that programs handle."""
    name = s.namespace
    created = s.config_map("a", {"a": "1", "b": "2"})
    check(created.metadata.uid and created.metadata.resource_version and created.metadata.creation_timestamp, "not filled in")
    read = s.core.read_namespaced_config_map("a", name)
    equal(read, created, "the ConfigMap read back")
    with refused(409, "AlreadyExists", 'configmaps "a" already exists'):
        s.config_map("a")
    with refused(404, "NotFound", 'configmaps "none" not found'):
        s.core.read_namespaced_config_map("none", name)
    with refused(422, "Invalid", 'ConfigMap "A_" is invalid', "metadata.name"):
        s.config_map("A_")
    with refused(404, "NotFound", 'namespaces "no-such-namespace" not found'):
        s.core.create_namespaced_config_map("no-such-namespace", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a")))
    with refused(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"):
        s.core.create_namespaced_config_map(name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="b", namespace="default")))
    s.step("created, read back, and was refused what must be refused")

    read.data["b"] = "3"
    replaced = s.core.replace_namespaced_config_map("a", name, read)
    equal(replaced.data, {"a": "1", "b": "3"}, "the data after a replacement")
    read.data["b"] = "4"
    with refused(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again"):
        s.core.replace_namespaced_config_map("a", name, read)
    with refused(404, "NotFound"):
        s.core.replace_namespaced_config_map("none", name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="none")))
    with refused(400, "BadRequest", "the name of the object (other) does not match the name on the URL (a)"):
        s.core.replace_namespaced_config_map("a", name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="other")))
    s.step("replaced, and was refused a stale replacement")

    def patch(body, kind, **more):
        return s.core.patch_namespaced_config_map("a", name, body, _content_type=kind, **more).data

    equal(patch({"data": {"b": None, "c": "m"}}, MERGE), {"a": "1", "c": "m"}, "the data after a merge patch")
    equal(patch({"data": {"c": "s"}}, STRATEGIC), {"a": "1", "c": "s"}, "the data after a strategic merge patch")
    operations = [{"op": "replace", "path": "/data/a", "value": "j"}, {"op": "remove", "path": "/data/c"}]
    equal(patch(operations, JSON_PATCH), {"a": "j"}, "the data after a JSON patch")
    # Without a content type the package chooses one by the body.
    chosen = s.core.patch_namespaced_config_map("a", name, {"data": {"d": "p"}}).data
    equal(chosen, {"a": "j", "d": "p"}, "the data after a patch without a content type")
    with refused(422, "Invalid"):
        patch([{"op": "remove", "path": "/data/none"}], JSON_PATCH)
    with refused(409, "Conflict"):
        patch({"metadata": {"resourceVersion": "1"}}, MERGE)
    with refused(404, "NotFound"):
        s.core.patch_namespaced_config_map("none", name, {"data": {}})
    s.step("patched in three ways")

    def apply(manager, data, **more):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}
        return s.core.patch_namespaced_config_map("applied", name, body, _content_type=APPLY, field_manager=manager, **more).data

    equal(apply("one", {"x": "1", "y": "1"}), {"x": "1", "y": "1"}, "the applied data")
    with refused(409, "Conflict", 'conflict with "one"', ".data.x"):
        apply("two", {"x": "2"})
    equal(apply("two", {"x": "2"}, force=True), {"x": "2", "y": "1"}, "the data after an apply by force")
    equal(apply("one", {}), {"x": "2"}, "the data after an apply of less")
    s.step("applied, with a conflict")

    dry = s.core.create_namespaced_config_map(name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="dry")), dry_run="All")
    check(dry.metadata.uid, "a dry run that leaves out the UID")
    with refused(404, "NotFound"):
        s.core.read_namespaced_config_map("dry", name)
    equal(patch({"data": {"dry": "run"}}, MERGE, dry_run="All").get("dry"), "run", "a patch as a dry run")
    check("dry" not in s.core.read_namespaced_config_map("a", name).data, "a dry run that was kept")
    s.core.delete_namespaced_config_map("a", name, dry_run="All")
    s.core.read_namespaced_config_map("a", name)
    with refused(422, "Invalid", "dryRun"):
        s.core.delete_namespaced_config_map("a", name, dry_run="Some")
    s.step("ran dry")

    text = base64.b64encode(b"\x00\x01\xff").decode()
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), data={"k": text}, string_data={"t": "text"})
    secret = s.core.create_namespaced_secret(name, secret)
    equal(secret.data, {"k": text, "t": base64.b64encode(b"text").decode()}, "the data of a Secret")
    equal((secret.type, secret.string_data), ("Opaque", None), "the type and texts of a Secret")
    secret.type = "example.com/other"
    with refused(422, "Invalid", "field is immutable"):
        s.core.replace_namespaced_secret("s", name, secret)
    equal(s.core.patch_namespaced_secret("s", name, {"stringData": {"t": "new"}}).data["t"], base64.b64encode(b"new").decode(), "a Secret's text")
    s.step("kept a Secret")

    deleted = plain(s.core.delete_namespaced_config_map("a", name))
    equal((deleted["kind"], deleted["status"]), ("Status", "Success"), "the answer to a deletion")
    with refused(404, "NotFound"):
        s.core.delete_namespaced_config_map("a", name)
    with refused(409, "Conflict", "precondition"):
        options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="00000000-0000-0000-0000-000000000000"))
        s.core.delete_namespaced_config_map("applied", name, body=options)
    s.step("deleted")


def lists(s):
    """Lists with selectors and in pages."""
    for number in range(7):
        s.config_map(f"many-{number}", labels={"many": "yes", "odd": "true" if number % 2 else "false"})
    s.config_map("other")

    def names(**options):
        return [item.metadata.name for item in s.core.list_namespaced_config_map(s.namespace, **options).items]

    equal(names(label_selector="odd=true"), ["many-1", "many-3", "many-5"], "the objects with a label")
    equal(len(names(label_selector="many,odd notin (true)")), 4, "the number of objects without a label's value")
    equal(names(label_selector="!many", field_selector="metadata.name=other"), ["other"], "the objects without a label")
    equal(len(names(field_selector=f"metadata.namespace={s.namespace},metadata.name!=other", label_selector="many")), 7, "not that name")
    everywhere = s.core.list_config_map_for_all_namespaces(field_selector=f"metadata.namespace={s.namespace}", label_selector="many")
    equal(len(everywhere.items), 7, "the number of objects in all namespaces")
    with refused(400, "BadRequest", "is not a known field selector"):
        names(field_selector="data.a=1")
    s.step("selected by labels and fields")

    found, token, version = [], None, None
    for _ in range(10):
        page = s.core.list_namespaced_config_map(s.namespace, limit=3, label_selector="many", _continue=token)
        equal(page.metadata.resource_version, version or page.metadata.resource_version, "the version of a page")
        version = page.metadata.resource_version
        found += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        if len(found) == 3:
            # What goes meanwhile is still of that moment.
            s.core.delete_namespaced_config_map("many-6", s.namespace)
    equal(found, [f"many-{number}" for number in range(7)], "the objects of all pages")
    first = s.core.list_namespaced_config_map(s.namespace, limit=2)
    check(first.metadata.remaining_item_count and first.metadata.remaining_item_count >= 5, "the number of what remains")
    with refused(400, "BadRequest", "continue key is not valid"):
        names(limit=1, _continue="nonsense")
    s.step("turned pages of one moment")

    s.core.delete_collection_namespaced_config_map(s.namespace, label_selector="odd=true")
    equal(names(label_selector="many"), ["many-0", "many-2", "many-4"], "the objects after a deletion of some")
    s.step("deleted a collection")

    with refused(400, "BadRequest", "found '=', expected: ',' or 'end of string'"):
        names(label_selector="a=b=c")
    s.step("was told what is wrong with a label selector")


def watches(s):
    """Watches, and what ends them."""
    s.config_map("a")
    listed = s.core.list_namespaced_config_map(s.namespace)
    s.config_map("b", labels={"l": "1"})
    s.core.patch_namespaced_config_map("b", s.namespace, {"data": {"x": "y"}})
    s.core.delete_namespaced_config_map("b", s.namespace)

    def events(**options):
        return [
            (event["type"], event["object"].metadata.name)
            for event in watch.Watch().stream(s.core.list_namespaced_config_map, s.namespace, timeout_seconds=1, **options)
        ]

    since = listed.metadata.resource_version
    expected = [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    equal(events(resource_version=since, field_selector="metadata.name=b"), expected, "the events since the list")
    equal(events(resource_version=since, label_selector="l=1"), expected, "the events of what has a label")
    equal(events(field_selector="metadata.name=a"), [("ADDED", "a")], "the events of a watch without a version")
    s.step("watched from a list on, until the time was up")

    watcher = watch.Watch()
    seen = []
    for event in watcher.stream(s.core.list_namespaced_config_map, s.namespace, resource_version=since, timeout_seconds=PATIENCE):
        seen.append(event["type"])
        if len(seen) == 3:
            s.config_map("c")
        if event["object"].metadata.name == "c":
            watcher.stop()
    equal(seen, ["ADDED", "MODIFIED", "DELETED", "ADDED"], "the events of a watch that is stopped")
    s.step("saw what came while it watched")


def workloads(s):
    """Workloads come up, and what depends on them follows."""
    name = s.namespace
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1ServiceSpec(selector={"app": "web"}, ports=[client.V1ServicePort(port=80, target_port="http")]),
    )
    service = s.core.create_namespaced_service(name, service)
    check(service.spec.cluster_ip and service.spec.type == "ClusterIP" and service.spec.ports[0].protocol == "TCP", "the Service's defaults")
    service.spec.type = "NodePort"
    service = s.core.replace_namespaced_service("web", name, service)
    check(30000 <= service.spec.ports[0].node_port <= 32767, "the Service's port of nodes")
    bad = client.V1ServiceSpec(ports=[client.V1ServicePort(port=0)])
    with refused(422, "Invalid", "spec.ports[0].port: Invalid value: 0"):
        s.core.create_namespaced_service(name, client.V1Service(metadata=client.V1ObjectMeta(name="bad"), spec=bad))
    s.step("created a Service")

    created = s.apps.create_namespaced_deployment(name, deployment("web", 2))
    equal(created.spec.strategy.type, "RollingUpdate", "the default strategy")
    equal(created.spec.template.spec.restart_policy, "Always", "the default restart policy")
    s.rolled_out("web")
    conditions = {condition.type: condition.status for condition in s.apps.read_namespaced_deployment("web", name).status.conditions}
    equal(conditions, {"Available": "True", "Progressing": "True"}, "the conditions")
    pods = s.core.list_namespaced_pod(name, label_selector="app=web", field_selector="status.phase=Running").items
    equal(len(pods), 2, "the number of running Pods")
    check(all(pod.status.pod_ip and pod.spec.node_name for pod in pods), "Pods without an address or a node")
    s.eventually("the Service's addresses", lambda: len(addresses(s, "web")) == 2)
    s.step("rolled out a Deployment behind it")

    body = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:1"}]}}}}
    patched = s.apps.patch_namespaced_deployment("web", name, body, _content_type=STRATEGIC)
    equal(sorted(c.name for c in patched.spec.template.spec.containers), ["side", "web"], "the containers after a strategic merge patch")
    s.rolled_out("web")
    scale = s.apps.read_namespaced_deployment_scale("web", name)
    equal(scale.status.selector, "app=web", "the scale's selector")
    s.apps.patch_namespaced_deployment_scale("web", name, {"spec": {"replicas": 1}})
    s.rolled_out("web")
    stale = s.apps.read_namespaced_deployment("web", name)
    stale.spec.selector.match_labels["app"] = "other"
    stale.spec.template.metadata.labels["app"] = "other"
    with refused(422, "Invalid", "field is immutable"):
        s.apps.replace_namespaced_deployment("web", name, stale)
    with refused(422, "Invalid", "spec.replicas: Invalid value: -1"):
        s.apps.create_namespaced_deployment(name, deployment("bad", -1))
    s.step("changed and scaled it")

    jobs = client.BatchV1Api()
    job = client.V1Job(
        metadata=client.V1ObjectMeta(name="once"),
        spec=client.V1JobSpec(backoff_limit=1, template=pod_template(restart_policy="Never")),
    )
    jobs.create_namespaced_job(name, job)
    s.eventually("the end of the Job", lambda: jobs.read_namespaced_job_status("once", name).status.succeeded == 1)
    done = jobs.read_namespaced_job("once", name)
    equal([c.type for c in done.status.conditions], ["Complete"], "the conditions of the Job")
    check(done.status.completion_time, "the Job's end")
    job.spec.template.spec.restart_policy = "Always"
    job.metadata.name = "always"
    with refused(422, "Invalid", "spec.template.spec.restartPolicy"):
        jobs.create_namespaced_job(name, job)
    jobs.delete_namespaced_job("once", name, propagation_policy="Background")
    s.eventually("the end of the Job's Pods", lambda: not s.core.list_namespaced_pod(name, label_selector="job-name=once").items)
    s.step("saw a Job through")

    s.apps.delete_namespaced_deployment("web", name, propagation_policy="Foreground")
    s.eventually("the end of the Deployment", lambda: not s.apps.list_namespaced_deployment(name).items)
    equal(s.apps.list_namespaced_replica_set(name).items, [], "ReplicaSets that outlive a Deployment deleted in the foreground")
    s.step("deleted in the foreground")


def addresses(s, name):
    return [
        address.ip
        for item in s.core.list_namespaced_endpoints(s.namespace, field_selector=f"metadata.name={name}").items
        for subset in item.subsets or []
        for address in subset.addresses or []
    ]


def namespaces(s):
    """A namespace takes with it what is in it."""
    made = s.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(generate_name="py-gone-", labels={"l": "1"})))
    name = made.metadata.name
    check(name.startswith("py-gone-") and len(name) == len("py-gone-") + 5, f"a strange generated name: {name}")
    equal(made.spec.finalizers, ["kubernetes"], "the finalizers of a namespace")
    s.core.patch_namespace(name, {"metadata": {"annotations": {"a": "b"}}})
    made = s.core.read_namespace(name)
    equal((made.metadata.annotations, made.status.phase), ({"a": "b"}, "Active"), "the namespace")
    s.eventually("the default ServiceAccount", lambda: s.core.list_namespaced_service_account(name, field_selector="metadata.name=default").items)
    held = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="held", finalizers=["example.com/hold"]))
    s.core.create_namespaced_config_map(name, held)
    equal(plain(s.core.delete_namespace(name))["kind"], "Namespace", "the answer to a deletion that takes time")
    with refused(403, "Forbidden", "because it is being terminated"):
        s.core.create_namespaced_config_map(name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="late")))
    equal(s.core.read_namespace(name).status.phase, "Terminating", "the phase")
    s.core.patch_namespaced_config_map("held", name, {"metadata": {"finalizers": None}}, _content_type=MERGE)
    s.eventually("the end of the namespace", lambda: not s.core.list_namespace(field_selector=f"metadata.name={name}").items)
    with refused(404, "NotFound", f'namespaces "{name}" not found'):
        s.core.read_namespace(name)
    s.step("went with what was in it, once nothing held it")


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.python.example.com"},
    "spec": {
        "group": "python.example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList", "shortNames": ["th"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1},
                                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                                },
                            },
                            "status": {"type": "object", "properties": {"state": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


def thing(name, **spec):
    return {"apiVersion": "python.example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec}


def dynamically(s):
    """The client that finds out what there is, with a kind that is made meanwhile."""
    api = client.ApiClient()
    found = dynamic.DynamicClient(api, cache_file=os.path.join(s.folder, "discovery"))
    equal(found.version["kubernetes"]["major"], "1", "the version")
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    equal((deployments.name, deployments.namespaced, deployments.short_names), ("deployments", True, ["deploy"]), "Deployments")
    equal(found.resources.get(kind="ConfigMap", api_version="v1").name, "configmaps", "the resource of ConfigMaps")
    try:
        found.resources.get(api_version="python.example.com/v1", kind="Thing")
        raise Failed("a kind that is not there yet is found")
    except ResourceNotFoundError:
        s.step("discovered what there is")

    definitions = found.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    definitions.create(body=DEFINITION)
    try:
        custom(s, found, definitions)
    finally:
        definitions.delete(name=DEFINITION["metadata"]["name"])
    things = client.CustomObjectsApi()

    def is_gone():
        try:
            things.list_namespaced_custom_object("python.example.com", "v1", s.namespace, "things")
        except ApiException as error:
            equal(error.status, 404, "the code once the definition is gone")
            return True
        return False

    s.eventually("the end of the definition", is_gone)
    s.step("took the definition away")


def custom(s, found, definitions):
    name = s.namespace

    def is_established():
        conditions = definitions.get(name=DEFINITION["metadata"]["name"]).to_dict()["status"]["conditions"] or []
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    s.eventually("the definition to be established", is_established)

    def is_discovered():
        found.resources.invalidate_cache()
        try:
            return found.resources.get(api_version="python.example.com/v1", kind="Thing")
        except ResourceNotFoundError:
            return None

    s.eventually("the kind to be discovered", is_discovered)
    things = found.resources.get(api_version="python.example.com/v1", kind="Thing")

    def is_served():
        try:
            return things.create(body=thing("a", size=1, unknown="field"), namespace=name)
        except NotFoundError:
            return None

    # A real server may take a moment more to serve what is established.
    s.eventually("the first custom object", is_served)
    equal(things.get(name="a", namespace=name).to_dict()["spec"], {"size": 1, "color": "red"}, "the pruned and defaulted object")
    with refused(422, "Invalid", "spec.size", "should be greater than or equal to 1"):
        things.create(body=thing("b", size=0), namespace=name)
    with refused(422, "Invalid", 'spec.color: Unsupported value: "green"'):
        things.create(body=thing("b", size=1, color="green"), namespace=name)
    with refused(422, "Invalid", "spec.size: Required value"):
        things.create(body=thing("b"), namespace=name)
    s.step("created a custom object, and was refused bad ones")

    patched = things.patch(body={"metadata": {"name": "a"}, "spec": {"size": 2}}, namespace=name, content_type=MERGE)
    equal((patched.spec.size, patched.metadata.generation), (2, 2), "the patched object")
    with refused(415, "UnsupportedMediaType"):
        things.patch(body={"metadata": {"name": "a"}, "spec": {"size": 2}}, namespace=name)
    status = dict(thing("a", size=9), status={"state": "up"})
    status["metadata"]["resourceVersion"] = patched.metadata.resourceVersion
    replaced = things.status.replace(body=status, namespace=name)
    equal((replaced.spec.size, replaced.status.state, replaced.metadata.generation), (2, "up", 2), "after the status was replaced")
    applied = things.server_side_apply(body=thing("c", size=3), namespace=name, field_manager="one")
    equal([entry.manager for entry in applied.metadata.managedFields], ["one"], "the owners")
    with refused(409, "Conflict", 'conflict with "one"', ".spec.size"):
        things.server_side_apply(body=thing("c", size=4), namespace=name, field_manager="two")
    forced = things.server_side_apply(body=thing("c", size=4), namespace=name, field_manager="two", force_conflicts=True)
    equal(forced.spec.size, 4, "the size after an apply by force")
    s.step("patched, applied, and kept the status apart")

    listed = things.get(namespace=name)
    equal((listed.kind, [item.metadata.name for item in listed.items]), ("ThingList", ["a", "c"]), "the list")
    events = [
        (event["type"], event["object"].metadata.name)
        for event in things.watch(namespace=name, resource_version=applied.metadata.resourceVersion, timeout=1)
    ]
    equal(events, [("MODIFIED", "c")], "the events since the apply")
    objects_api = client.CustomObjectsApi()
    path = ("python.example.com", "v1", name, "things")
    equal(objects_api.get_namespaced_custom_object(*path, "a")["spec"]["size"], 2, "the size")
    objects_api.patch_namespaced_custom_object(*path, "a", {"spec": {"size": 5}}, _content_type=MERGE)
    equal(objects_api.list_namespaced_custom_object(*path, limit=1)["items"][0]["spec"]["size"], 5, "the size")
    things.delete(name="a", namespace=name)
    objects_api.delete_namespaced_custom_object(*path, "c")
    equal(things.get(namespace=name).items, [], "what is left")
    s.step("listed, watched and deleted")


MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: { name: from-file }
data: { a: b }
---
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata: { name: from-file }
  spec:
    selector: { matchLabels: { app: from-file } }
    template:
      metadata: { labels: { app: from-file } }
      spec: { containers: [{ name: web, image: 'web:1' }] }
- apiVersion: rbac.authorization.k8s.io/v1
  kind: Role
  metadata: { name: from-file }
  rules: []
"""


def files(s):
    """Manifests from a file."""
    path = os.path.join(s.folder, "manifests.yaml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(MANIFESTS)
    api = client.ApiClient()
    utils.create_from_yaml(api, path, namespace=s.namespace)
    equal(s.core.read_namespaced_config_map("from-file", s.namespace).data, {"a": "b"}, "the ConfigMap")
    s.rolled_out("from-file")
    try:
        utils.create_from_yaml(api, path, namespace=s.namespace)
        raise Failed("what is there can be created again")
    except utils.FailToCreateError as error:
        equal({one.status for one in error.api_exceptions}, {409}, "the codes of a second creation")
    s.step("created what a file says, once")


def access(s):
    """Who may do what, and that it is held to."""
    name = s.namespace
    s.config_map("a")
    ann = client.ApiClient()
    ann.set_default_header("Impersonate-User", "ann")

    def may(api, verb, resource):
        attributes = client.V1ResourceAttributes(namespace=name, verb=verb, resource=resource)
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        review = client.V1SelfSubjectAccessReview(spec=spec)
        return client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed

    check(may(client.ApiClient(), "delete", "configmaps"), "an administrator may not do everything")
    check(not may(ann, "get", "configmaps"), "a user without rights may read")
    as_ann = client.CoreV1Api(ann)
    with refused(403, "Forbidden", f'configmaps "a" is forbidden: User "ann" cannot get resource "configmaps" in API group "" in the namespace "{name}"'):
        as_ann.read_namespaced_config_map("a", name)
    rbac = client.RbacAuthorizationV1Api()
    binding = client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name="ann"),
        subjects=[client.RbacV1Subject(kind="User", name="ann", api_group="rbac.authorization.k8s.io")],
        role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="view"),
    )
    rbac.create_namespaced_role_binding(name, binding)
    s.eventually("the binding to count", lambda: may(ann, "get", "configmaps"))
    as_ann.read_namespaced_config_map("a", name)
    with refused(403, "Forbidden"):
        as_ann.list_namespaced_secret(name)
    with refused(403, "Forbidden"):
        as_ann.delete_namespaced_config_map("a", name)
    changed = rbac.read_namespaced_role_binding("ann", name)
    changed.role_ref.name = "edit"
    with refused(422, "Invalid", "cannot change roleRef"):
        rbac.replace_namespaced_role_binding("ann", name, changed)
    s.step("a binding opens what its role names")

    nobody = client.Configuration.get_default_copy()
    nobody.api_key = {"authorization": "Bearer nonsense"}
    nobody.cert_file = nobody.key_file = None
    # It would put the kubeconfig's token back.
    nobody.refresh_api_key_hook = None
    with refused(401, "Unauthorized"):
        client.CoreV1Api(client.ApiClient(nobody)).list_namespaced_config_map(name)
    s.step("a bad token opens nothing")


SECTIONS = {
    "versions": versions,
    "objects": objects,
    "lists": lists,
    "watches": watches,
    "workloads": workloads,
    "namespaces": namespaces,
    "dynamic": dynamically,
    "files": files,
    "access": access,
}


def run(name, body):
    """Runs a section in a namespace that is made for it, and returns what is wrong."""
    core = client.CoreV1Api()
    made = core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(generate_name=f"py-{name}-")))
    folder = tempfile.TemporaryDirectory()
    section = Section(name, made.metadata.name, folder.name)
    try:
        body(section)
    except Failed as error:
        line = next(frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.name not in ("check", "equal", "refused"))
        section.differences.append(f"line {line}: {error}")
    except Exception:
        section.differences.append(traceback.format_exc())
    finally:
        folder.cleanup()
        core.delete_namespace(made.metadata.name)
    return section.differences


def main():
    config.load_kube_config(os.environ["KUBECONFIG"])
    failures = {name: run(name, SECTIONS[name]) for name in sys.argv[1:] or SECTIONS}
    for name, differences in failures.items():
        for difference in differences:
            print(f"{name} FAILED: {difference}", file=sys.stderr)
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
