// What a program with client-go does with a cluster, and what it may expect of one.
//
// It takes the cluster of $KUBECONFIG, says a line per step, and ends with 1 if anything was not as a real Kubernetes
// has it. A section ends at its first failure, the others still run. Arguments name the sections to run; without any
// all of them are. With --skip-protobuf no answer in protobuf is asked for.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/record"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	patience = 60 * time.Second
	image    = "web:1"
)

// One section at work: its clients, and a namespace of its own.
type section struct {
	ctx       context.Context
	name      string
	namespace string
	config    *rest.Config
	clients   kubernetes.Interface
	// What was found by checks that do not end the section.
	differences []string
}

// Whether answers in protobuf are not asked for.
var skipProtobuf bool

// The way out of a section at its first failure.
type failure struct{ text string }

func (s *section) fail(format string, values ...interface{}) {
	panic(failure{fmt.Sprintf(format, values...)})
}

func (s *section) step(format string, values ...interface{}) {
	fmt.Printf("%s: %s\n", s.name, fmt.Sprintf(format, values...))
}

// The request must have been answered well.
func (s *section) must(err error, what string) {
	if err != nil {
		s.fail("%s: %v", what, err)
	}
}

func (s *section) equal(found, expected interface{}, what string) {
	if !reflect.DeepEqual(found, expected) {
		s.fail("%s: found %v, expected %v", what, found, expected)
	}
}

// The request must have been refused, in this way and for this reason.
func (s *section) refused(err error, is func(error) bool, parts ...string) {
	if err == nil {
		s.fail("no error, expected one with %q", parts)
	}
	if is != nil && !is(err) {
		s.fail("another kind of error than expected: %#v", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			s.fail("no %q in the error: %v", part, err)
		}
	}
}

func (s *section) eventually(what string, condition func() (bool, error)) {
	if err := wait.PollImmediate(100*time.Millisecond, patience, condition); err != nil {
		s.fail("%s: %v", what, err)
	}
}

// Protobuf is read by the sandbox, and never written.
func (s *section) protobuf(what string, check func()) {
	if skipProtobuf {
		s.step("LEFT OUT: %s", what)
		return
	}
	s.check(what, check)
}

// A check without which the rest of the section goes on.
func (s *section) check(what string, check func()) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
			s.step("%s", what)
		case failure:
			s.differences = append(s.differences, what+": "+reason.text)
		default:
			panic(reason)
		}
	}()
	check()
}

func (s *section) configMaps() typedcorev1.ConfigMapInterface {
	return s.clients.CoreV1().ConfigMaps(s.namespace)
}

func (s *section) configMap(name string, data map[string]string) *corev1.ConfigMap {
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	created, err := s.configMaps().Create(s.ctx, made, metav1.CreateOptions{})
	s.must(err, "creating ConfigMap "+name)
	return created
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: podTemplate(labels),
		},
	}
}

func podTemplate(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name:  "web",
			Image: image,
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}},
		}}},
	}
}

// What `kubectl rollout status` waits for.
func (s *section) rolledOut(name string) *appsv1.Deployment {
	var found *appsv1.Deployment
	s.eventually("the rollout of "+name, func() (bool, error) {
		var err error
		found, err = s.clients.AppsV1().Deployments(s.namespace).Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		wanted, status := *found.Spec.Replicas, found.Status
		return status.ObservedGeneration == found.Generation && status.UpdatedReplicas == wanted &&
			status.Replicas == wanted && status.AvailableReplicas == wanted, nil
	})
	return found
}

// Objects of the most used kinds, each way of writing them, and the errors that programs handle.
func typed(s *section) {
	version, err := s.clients.Discovery().ServerVersion()
	s.must(err, "version")
	if !strings.HasPrefix(version.GitVersion, "v1.") || version.Major != "1" {
		s.fail("a strange version: %v", version)
	}
	s.step("talks to Kubernetes %s", version)

	created := s.configMap("a", map[string]string{"a": "1", "b": "2"})
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() {
		s.fail("the created ConfigMap is not filled in: %v", created)
	}
	got, err := s.configMaps().Get(s.ctx, "a", metav1.GetOptions{})
	s.must(err, "get")
	s.equal(got, created, "the ConfigMap read back")
	s.step("created and read back a ConfigMap")

	_, err = s.configMaps().Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsAlreadyExists, `configmaps "a" already exists`)
	_, err = s.configMaps().Get(s.ctx, "none", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound, `configmaps "none" not found`)
	_, err = s.configMaps().Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "A_"}}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, `ConfigMap "A_" is invalid: metadata.name`)
	_, err = s.configMaps().Create(s.ctx, &corev1.ConfigMap{}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, "name or generateName is required")
	_, err = s.clients.CoreV1().ConfigMaps("no-such-namespace").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsNotFound, `namespaces "no-such-namespace" not found`)
	s.step("was refused what must be refused")

	generated, err := s.configMaps().Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "generated-"}}, metav1.CreateOptions{})
	s.must(err, "create with generateName")
	if len(generated.Name) != len("generated-")+5 {
		s.fail("a strange generated name: %s", generated.Name)
	}

	stale := got.DeepCopy()
	got.Data["b"] = "3"
	updated, err := s.configMaps().Update(s.ctx, got, metav1.UpdateOptions{})
	s.must(err, "update")
	if updated.ResourceVersion == created.ResourceVersion {
		s.fail("an update that leaves the resourceVersion as it was")
	}
	stale.Data["b"] = "4"
	_, err = s.configMaps().Update(s.ctx, stale, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsConflict, "the object has been modified; please apply your changes to the latest version and try again")
	same, err := s.configMaps().Update(s.ctx, updated, metav1.UpdateOptions{})
	s.must(err, "update without a change")
	s.equal(same.ResourceVersion, updated.ResourceVersion, "the resourceVersion after an update without a change")
	s.step("updated, and was refused a stale update")

	for _, patch := range []struct {
		kind types.PatchType
		text string
		data map[string]string
	}{
		{types.MergePatchType, `{"data":{"b":null,"c":"m"}}`, map[string]string{"a": "1", "c": "m"}},
		{types.StrategicMergePatchType, `{"data":{"c":"s"}}`, map[string]string{"a": "1", "c": "s"}},
		{types.JSONPatchType, `[{"op":"test","path":"/data/a","value":"1"},{"op":"replace","path":"/data/a","value":"j"}]`, map[string]string{"a": "j", "c": "s"}},
	} {
		patched, err := s.configMaps().Patch(s.ctx, "a", patch.kind, []byte(patch.text), metav1.PatchOptions{})
		s.must(err, string(patch.kind))
		s.equal(patched.Data, patch.data, string(patch.kind))
	}
	_, err = s.configMaps().Patch(s.ctx, "a", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"other"}]`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid)
	_, err = s.configMaps().Patch(s.ctx, "a", types.JSONPatchType, []byte(`[{"op":`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsBadRequest)
	_, err = s.configMaps().Patch(s.ctx, "a", types.MergePatchType, []byte(`{"metadata":{"resourceVersion":"1"}}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsConflict)
	_, err = s.configMaps().Patch(s.ctx, "a", types.PatchType("text/plain"), []byte(`{}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsUnsupportedMediaType)
	s.step("patched in three ways")
	s.check("the error of a broken merge patch", func() {
		_, err := s.configMaps().Patch(s.ctx, "a", types.MergePatchType, []byte(`{"data":`), metav1.PatchOptions{})
		s.refused(err, nil, "Invalid JSON Patch")
		status := &apierrors.StatusError{}
		if !errors.As(err, &status) || status.Status().Code != 500 {
			s.fail("not the code of 1.20, which is 500: %#v", err)
		}
	})

	_, err = s.clients.AppsV1().Deployments(s.namespace).Create(s.ctx, deployment("web", 1), metav1.CreateOptions{})
	s.must(err, "creating a Deployment")
	patched, err := s.clients.AppsV1().Deployments(s.namespace).Patch(s.ctx, "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]},{"name":"side","image":"side:1"}]}}}}`), metav1.PatchOptions{})
	s.must(err, "a strategic merge patch of a Deployment")
	names := []string{}
	for _, container := range patched.Spec.Template.Spec.Containers {
		names = append(names, container.Name+"="+container.Image)
	}
	sort.Strings(names)
	s.equal(names, []string{"side=side:1", "web=" + image}, "the containers after a strategic merge patch")
	s.equal(patched.Generation, int64(2), "the generation after a change of the spec")
	bad := deployment("bad", 1)
	bad.Spec.Template.Labels = map[string]string{"other": "label"}
	_, err = s.clients.AppsV1().Deployments(s.namespace).Create(s.ctx, bad, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, "`selector` does not match template `labels`")
	status := &apierrors.StatusError{}
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 ||
		status.Status().Details.Causes[0].Field != "spec.template.metadata.labels" {
		s.fail("the cause has not its field: %#v", err)
	}
	other := patched.DeepCopy()
	other.ResourceVersion = ""
	other.Spec.Selector.MatchLabels["app"] = "other"
	other.Spec.Template.Labels["app"] = "other"
	_, err = s.clients.AppsV1().Deployments(s.namespace).Update(s.ctx, other, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "field is immutable")
	s.step("patched a Deployment's list of containers by their names")

	dry, err := s.configMaps().Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	s.must(err, "create as a dry run")
	if dry.UID == "" {
		s.fail("a dry run that leaves out the UID")
	}
	_, err = s.configMaps().Get(s.ctx, "dry", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound)
	s.must(s.configMaps().Delete(s.ctx, "a", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}), "delete as a dry run")
	_, err = s.configMaps().Get(s.ctx, "a", metav1.GetOptions{})
	s.must(err, "get after a dry run of its deletion")
	s.step("ran dry")

	secret, err := s.clients.CoreV1().Secrets(s.namespace).Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Data:       map[string][]byte{"k": {0, 1, 255}},
		StringData: map[string]string{"t": "text"},
	}, metav1.CreateOptions{})
	s.must(err, "creating a Secret")
	s.equal(secret.Type, corev1.SecretTypeOpaque, "the type of a Secret")
	s.equal(secret.Data, map[string][]byte{"k": {0, 1, 255}, "t": []byte("text")}, "the data of a Secret")
	immutable := true
	_, err = s.configMaps().Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fixed"}, Immutable: &immutable}, metav1.CreateOptions{})
	s.must(err, "creating an immutable ConfigMap")
	_, err = s.configMaps().Patch(s.ctx, "fixed", types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid, "field is immutable when `immutable` is set")
	s.step("keeps the bytes of a Secret, and what is immutable")

	for number := 0; number < 6; number++ {
		one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name:   fmt.Sprintf("many-%d", number),
			Labels: map[string]string{"many": "yes", "odd": fmt.Sprint(number%2 == 1)},
		}}
		_, err = s.configMaps().Create(s.ctx, one, metav1.CreateOptions{})
		s.must(err, "create")
	}
	for selector, count := range map[string]int{
		"many=yes": 6, "many=yes,odd!=true": 3, "odd in (true,false)": 6, "many,odd notin (true)": 3, "!many,odd": 0,
	} {
		list, err := s.configMaps().List(s.ctx, metav1.ListOptions{LabelSelector: selector})
		s.must(err, selector)
		s.equal(len(list.Items), count, "the number of objects with "+selector)
		if list.ResourceVersion == "" || list.ResourceVersion == "0" {
			s.fail("a list without a resourceVersion")
		}
	}
	list, err := s.configMaps().List(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=many-3"})
	s.must(err, "a field selector")
	s.equal(len(list.Items), 1, "the number of objects of a name")
	_, err = s.configMaps().List(s.ctx, metav1.ListOptions{FieldSelector: "data.a=1"})
	s.refused(err, apierrors.IsBadRequest, `"data.a" is not a known field selector`)
	s.check("the errors of broken label selectors", func() {
		for selector, message := range map[string]string{
			"a=b=c": "found '=', expected: ',' or 'end of string'",
			"a=b,":  "found '', expected: identifier after ','",
			",a":    "found ',', expected: !, identifier, or 'end of string'",
			"/a=b":  `invalid label key "/a"`,
			"a=-x":  `invalid label value: "-x"`,
		} {
			_, err := s.configMaps().List(s.ctx, metav1.ListOptions{LabelSelector: selector})
			s.refused(err, apierrors.IsBadRequest, message)
		}
	})
	s.check("an answer in YAML", func() {
		answer, err := s.clients.CoreV1().RESTClient().Get().Namespace(s.namespace).Resource("configmaps").Name("a").SetHeader("Accept", runtime.ContentTypeYAML).DoRaw(s.ctx)
		s.must(err, "get")
		if !strings.HasPrefix(string(answer), "apiVersion: v1\n") {
			s.fail("not YAML: %.40q", answer)
		}
	})
	s.must(s.configMaps().DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=true"}), "deleting a collection")
	list, err = s.configMaps().List(s.ctx, metav1.ListOptions{LabelSelector: "many"})
	s.must(err, "list")
	s.equal(len(list.Items), 3, "the number of objects after the deletion of half of them")
	s.step("selected, and deleted what was selected")

	wrong := types.UID("00000000-0000-0000-0000-000000000000")
	err = s.configMaps().Delete(s.ctx, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}})
	s.refused(err, apierrors.IsConflict, "the UID in the precondition")
	s.must(s.configMaps().Delete(s.ctx, "a", metav1.DeleteOptions{}), "delete")
	err = s.configMaps().Delete(s.ctx, "a", metav1.DeleteOptions{})
	s.refused(err, apierrors.IsNotFound)
	s.step("deleted, once")

	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}
	_, err = s.configMaps().Create(s.ctx, held, metav1.CreateOptions{})
	s.must(err, "create")
	s.must(s.configMaps().Delete(s.ctx, "held", metav1.DeleteOptions{}), "delete")
	held, err = s.configMaps().Get(s.ctx, "held", metav1.GetOptions{})
	s.must(err, "get while a finalizer holds it")
	if held.DeletionTimestamp == nil {
		s.fail("no deletionTimestamp while a finalizer holds the object")
	}
	held.Finalizers = nil
	_, err = s.configMaps().Update(s.ctx, held, metav1.UpdateOptions{})
	s.must(err, "taking the finalizer away")
	_, err = s.configMaps().Get(s.ctx, "held", metav1.GetOptions{})
	s.refused(err, apierrors.IsNotFound)
	s.step("waited for a finalizer")
}

// The same with what kubelets and controllers speak.
func typedWithProtobuf(s *section) {
	config := rest.CopyConfig(s.config)
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + "," + runtime.ContentTypeJSON
	clients, err := kubernetes.NewForConfig(config)
	s.must(err, "a client that speaks protobuf")
	s.clients = clients
	typed(s)
	s.protobuf("an answer in protobuf", func() {
		answer, err := s.clients.CoreV1().RESTClient().Get().Namespace(s.namespace).Resource("configmaps").SetHeader("Accept", protobuf).DoRaw(s.ctx)
		s.must(err, "list")
		if !strings.HasPrefix(string(answer), "k8s\x00") {
			s.fail("not protobuf: %.40q", answer)
		}
	})
}

// Workloads come up, and what depends on them follows.
func workloads(s *section) {
	deployments := s.clients.AppsV1().Deployments(s.namespace)
	pods := s.clients.CoreV1().Pods(s.namespace)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	service, err := s.clients.CoreV1().Services(s.namespace).Create(s.ctx, service, metav1.CreateOptions{})
	s.must(err, "creating a Service")
	if service.Spec.ClusterIP == "" || service.Spec.Type != corev1.ServiceTypeClusterIP ||
		service.Spec.Ports[0].Protocol != corev1.ProtocolTCP || service.Spec.SessionAffinity != corev1.ServiceAffinityNone {
		s.fail("the Service is not filled in: %v", service.Spec)
	}
	moved := service.DeepCopy()
	moved.Spec.ClusterIP = "10.0.0.99"
	moved.Spec.ClusterIPs = []string{"10.0.0.99"}
	_, err = s.clients.CoreV1().Services(s.namespace).Update(s.ctx, moved, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "may not change once set")

	created, err := deployments.Create(s.ctx, deployment("web", 2), metav1.CreateOptions{})
	s.must(err, "creating a Deployment")
	spec := created.Spec
	if spec.RevisionHistoryLimit == nil || *spec.RevisionHistoryLimit != 10 || spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType ||
		spec.Template.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent {
		s.fail("the Deployment's defaults are not there: %v", spec)
	}
	found := s.rolledOut("web")
	s.equal(found.Annotations["deployment.kubernetes.io/revision"], "1", "the revision")
	s.step("rolled out a Deployment")

	s.eventually("the addresses of the Service", func() (bool, error) {
		endpoints, err := s.clients.CoreV1().Endpoints(s.namespace).Get(s.ctx, "web", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && len(endpoints.Subsets) == 1 && len(endpoints.Subsets[0].Addresses) == 2 && endpoints.Subsets[0].Ports[0].Port == 80, err
	})
	s.eventually("the slice of the Service", func() (bool, error) {
		slices, err := s.clients.DiscoveryV1beta1().EndpointSlices(s.namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		return err == nil && len(slices.Items) == 1 && len(slices.Items[0].Endpoints) == 2, err
	})
	s.step("has endpoints of the Service")

	running, err := pods.List(s.ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "status.phase=Running,spec.nodeName!="})
	s.must(err, "list of Pods")
	s.equal(len(running.Items), 2, "the number of running Pods")
	owner := metav1.GetControllerOf(&running.Items[0])
	if owner == nil || owner.Kind != "ReplicaSet" {
		s.fail("a Pod that no ReplicaSet owns: %v", owner)
	}
	set, err := s.clients.AppsV1().ReplicaSets(s.namespace).Get(s.ctx, owner.Name, metav1.GetOptions{})
	s.must(err, "get of the ReplicaSet")
	owner = metav1.GetControllerOf(set)
	if owner == nil || owner.Kind != "Deployment" || owner.UID != created.UID {
		s.fail("a ReplicaSet that the Deployment does not own: %v", owner)
	}
	s.step("finds the owners")

	scaled, err := deployments.GetScale(s.ctx, "web", metav1.GetOptions{})
	s.must(err, "get of the scale")
	s.equal(scaled.Status.Selector, "app=web", "the scale's selector")
	scaled.Spec.Replicas = 3
	_, err = deployments.UpdateScale(s.ctx, "web", scaled, metav1.UpdateOptions{})
	s.must(err, "update of the scale")
	s.equal(*s.rolledOut("web").Spec.Replicas, int32(3), "the replicas after scaling")
	s.step("scaled through the subresource")

	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		found, err := deployments.Get(s.ctx, "web", metav1.GetOptions{})
		if err == nil {
			found.Spec.Template.Spec.Containers[0].Image = "web:2"
			_, err = deployments.Update(s.ctx, found, metav1.UpdateOptions{})
		}
		return err
	})
	s.must(err, "update of the image")
	s.equal(s.rolledOut("web").Annotations["deployment.kubernetes.io/revision"], "2", "the revision")
	sets, err := s.clients.AppsV1().ReplicaSets(s.namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	s.must(err, "list of ReplicaSets")
	s.equal(len(sets.Items), 2, "the number of ReplicaSets")
	s.step("rolled out a second revision")

	backoff, ttl := int32(1), int32(600)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "once"},
		Spec:       batchv1.JobSpec{BackoffLimit: &backoff, TTLSecondsAfterFinished: &ttl, Template: podTemplate(nil)},
	}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	job, err = s.clients.BatchV1().Jobs(s.namespace).Create(s.ctx, job, metav1.CreateOptions{})
	s.must(err, "creating a Job")
	s.equal(job.Spec.Selector.MatchLabels["controller-uid"], string(job.UID), "the selector that a Job gets")
	selector := fields.OneTermEqualSelector("metadata.name", "once").String()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	_, err = watchtools.UntilWithSync(ctx, &cache.ListWatch{
		ListFunc: func(options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return s.clients.BatchV1().Jobs(s.namespace).List(s.ctx, options)
		},
		WatchFunc: func(options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return s.clients.BatchV1().Jobs(s.namespace).Watch(s.ctx, options)
		},
	}, &batchv1.Job{}, nil, func(event watch.Event) (bool, error) {
		for _, condition := range event.Object.(*batchv1.Job).Status.Conditions {
			if condition.Type == batchv1.JobComplete && condition.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	s.must(err, "the end of the Job")
	s.step("saw a Job through")

	s.check("the budget's status, and an eviction that it forbids", func() { s.evicted(created.Spec.Selector) })

	foreground := metav1.DeletePropagationForeground
	s.must(deployments.Delete(s.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}), "delete in the foreground")
	s.eventually("the end of the Deployment", func() (bool, error) {
		_, err := deployments.Get(s.ctx, "web", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	sets, err = s.clients.AppsV1().ReplicaSets(s.namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	s.must(err, "list of ReplicaSets")
	s.equal(len(sets.Items), 0, "ReplicaSets that outlive a Deployment deleted in the foreground")
	s.step("deleted in the foreground")

	orphan := metav1.DeletePropagationOrphan
	s.must(func() error {
		_, err := deployments.Create(s.ctx, deployment("left", 1), metav1.CreateOptions{})
		return err
	}(), "creating a Deployment")
	s.rolledOut("left")
	s.must(deployments.Delete(s.ctx, "left", metav1.DeleteOptions{PropagationPolicy: &orphan}), "delete that orphans")
	s.eventually("an orphan", func() (bool, error) {
		sets, err := s.clients.AppsV1().ReplicaSets(s.namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app=left"})
		return err == nil && len(sets.Items) == 1 && metav1.GetControllerOf(&sets.Items[0]) == nil, err
	})
	s.step("left orphans behind")
}

// A Pod is evicted, but not against its budget. There are three of them.
func (s *section) evicted(selector *metav1.LabelSelector) {
	pods := s.clients.CoreV1().Pods(s.namespace)
	budgets := s.clients.PolicyV1beta1().PodDisruptionBudgets(s.namespace)
	all := intstr.FromInt(3)
	_, err := budgets.Create(s.ctx, &policyv1beta1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1beta1.PodDisruptionBudgetSpec{MinAvailable: &all, Selector: selector},
	}, metav1.CreateOptions{})
	s.must(err, "creating a PodDisruptionBudget")
	running, err := pods.List(s.ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	s.must(err, "list of Pods")
	eviction := &policyv1beta1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: running.Items[0].Name, Namespace: s.namespace}}
	s.refused(pods.Evict(s.ctx, eviction), apierrors.IsTooManyRequests)
	err = wait.PollImmediate(100*time.Millisecond, 10*time.Second, func() (bool, error) {
		budget, err := budgets.Get(s.ctx, "web", metav1.GetOptions{})
		return err == nil && budget.Status.CurrentHealthy == 3 && budget.Status.DesiredHealthy == 3 && budget.Status.ExpectedPods == 3, err
	})
	s.must(err, "the status of the budget")
	s.refused(pods.Evict(s.ctx, eviction), apierrors.IsTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
	s.must(budgets.Delete(s.ctx, "web", metav1.DeleteOptions{}), "delete of the budget")
	s.eventually("the eviction", func() (bool, error) {
		err := pods.Evict(s.ctx, eviction)
		if apierrors.IsTooManyRequests(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// Informers, as every controller has them.
func informed(s *section) {
	s.configMap("before", nil)
	factory := informers.NewSharedInformerFactoryWithOptions(s.clients, 0, informers.WithNamespace(s.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	seen := make(chan string, 100)
	ours := func(object interface{}) bool {
		return object.(metav1.Object).GetLabels()["ours"] == "yes" || object.(metav1.Object).GetName() == "before"
	}
	informer.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(object interface{}) bool {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			return ours(object)
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object interface{}) { seen <- "add " + object.(*corev1.ConfigMap).Name },
			UpdateFunc: func(_, object interface{}) { seen <- "update " + object.(*corev1.ConfigMap).Data["a"] },
			DeleteFunc: func(object interface{}) { seen <- "delete " + object.(*corev1.ConfigMap).Name },
		},
	})
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	timeout, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if !cache.WaitForCacheSync(timeout.Done(), informer.HasSynced) {
		s.fail("the informer does not sync")
	}
	expect := func(expected string) {
		select {
		case found := <-seen:
			s.equal(found, expected, "what the informer sees")
		case <-time.After(patience):
			s.fail("the informer does not see: %s", expected)
		}
	}
	expect("add before")
	s.step("synced an informer")
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later", Labels: map[string]string{"ours": "yes"}}}
	_, err := s.configMaps().Create(s.ctx, made, metav1.CreateOptions{})
	s.must(err, "create")
	expect("add later")
	_, err = s.configMaps().Patch(s.ctx, "later", types.MergePatchType, []byte(`{"data":{"a":"1"}}`), metav1.PatchOptions{})
	s.must(err, "patch")
	expect("update 1")
	s.must(s.configMaps().Delete(s.ctx, "later", metav1.DeleteOptions{}), "delete")
	expect("delete later")
	listed, err := factory.Core().V1().ConfigMaps().Lister().ConfigMaps(s.namespace).Get("before")
	s.must(err, "get from the informer's store")
	s.equal(listed.Namespace, s.namespace, "the namespace in the informer's store")
	s.step("saw what is added, updated and deleted")
}

// Watches that begin where a list ended.
func watched(s *section) {
	s.configMap("a", nil)
	list, err := s.configMaps().List(s.ctx, metav1.ListOptions{})
	s.must(err, "list")
	s.configMap("b", nil)
	_, err = s.configMaps().Patch(s.ctx, "b", types.MergePatchType, []byte(`{"metadata":{"labels":{"l":"1"}}}`), metav1.PatchOptions{})
	s.must(err, "patch")
	s.must(s.configMaps().Delete(s.ctx, "b", metav1.DeleteOptions{}), "delete")

	read := func(options metav1.ListOptions, until int) (events []string, versions []string) {
		watcher, err := s.configMaps().Watch(s.ctx, options)
		s.must(err, "watch")
		defer watcher.Stop()
		for len(events) < until {
			select {
			case event, open := <-watcher.ResultChan():
				if !open {
					return
				}
				object, err := meta.Accessor(event.Object)
				if err != nil {
					s.fail("a strange event: %v", event)
				}
				if event.Type == watch.Bookmark && object.GetName() != "" {
					s.fail("a bookmark with a name: %v", event.Object)
				}
				events = append(events, strings.TrimSpace(string(event.Type)+" "+object.GetName()))
				versions = append(versions, object.GetResourceVersion())
			case <-time.After(patience):
				s.fail("the watch shows only %v", events)
			}
		}
		return
	}
	events, versions := read(metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true}, 3)
	s.equal(events, []string{"ADDED b", "MODIFIED b", "DELETED b"}, "the events since the list")
	s.step("watched from a list on")
	events, _ = read(metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "l=1"}, 2)
	s.equal(events, []string{"ADDED b", "DELETED b"}, "the events of a selector that something enters")
	events, _ = read(metav1.ListOptions{ResourceVersion: versions[1], FieldSelector: "metadata.name=b"}, 1)
	s.equal(events, []string{"DELETED b"}, "the events of one name")
	seconds := int64(1)
	events, _ = read(metav1.ListOptions{FieldSelector: "metadata.name=a", TimeoutSeconds: &seconds}, 100)
	s.equal(events, []string{"ADDED a"}, "the events of a watch without a version")
	events, _ = read(metav1.ListOptions{ResourceVersion: "0", FieldSelector: "metadata.name=a", TimeoutSeconds: &seconds}, 100)
	s.equal(events, []string{"ADDED a"}, "the events of a watch from 0")
	s.step("watched what was selected, until its time was up")
	// A server sends the last bookmark two seconds before the time is up.
	seconds = 5
	events, bookmarks := read(metav1.ListOptions{ResourceVersion: versions[2], AllowWatchBookmarks: true, TimeoutSeconds: &seconds, FieldSelector: "metadata.name=b"}, 100)
	if len(events) == 0 || events[len(events)-1] != "BOOKMARK" || bookmarks[len(bookmarks)-1] < versions[2] {
		s.fail("no bookmark at the end of a watch: %v %v", events, bookmarks)
	}
	s.step("got a bookmark before the time was up")

	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	go func() {
		_, _ = s.configMaps().Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{})
	}()
	event, err := watchtools.Until(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFunc: func(options metav1.ListOptions) (watch.Interface, error) { return s.configMaps().Watch(ctx, options) },
	}, func(event watch.Event) (bool, error) {
		object, ok := event.Object.(*corev1.ConfigMap)
		return ok && object.Data["x"] == "y", nil
	})
	s.must(err, "watching until")
	s.equal(event.Type, watch.Modified, "the event that was waited for")
	s.step("waited with a watch that is retried")

	_, err = s.configMaps().List(s.ctx, metav1.ListOptions{ResourceVersion: "999999999999"})
	s.refused(err, apierrors.IsTimeout, "Too large resource version")
	_, err = s.configMaps().Watch(s.ctx, metav1.ListOptions{ResourceVersion: "x"})
	s.refused(err, nil)
	_, err = s.configMaps().List(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	s.must(err, "list not older than a version")
	s.step("asked for versions of a list")
	s.check("a list of exactly an earlier version", func() {
		exact, err := s.configMaps().List(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 100})
		s.must(err, "list")
		s.equal(exact.ResourceVersion, list.ResourceVersion, "the version")
		s.equal(len(exact.Items), len(list.Items), "the number of objects")
	})
}

// Writers that get in each other's way, and find a way.
func conflicts(s *section) {
	const writers = 5
	s.configMap("counter", map[string]string{"n": ""})
	backoff := wait.Backoff{Steps: 50, Duration: 5 * time.Millisecond, Factor: 1.1, Jitter: 0.5}
	results := make(chan error, writers)
	for writer := 0; writer < writers; writer++ {
		go func() {
			results <- retry.RetryOnConflict(backoff, func() error {
				found, err := s.configMaps().Get(s.ctx, "counter", metav1.GetOptions{})
				if err != nil {
					return err
				}
				found.Data["n"] += "x"
				_, err = s.configMaps().Update(s.ctx, found, metav1.UpdateOptions{})
				return err
			})
		}()
	}
	for writer := 0; writer < writers; writer++ {
		s.must(<-results, "an update with retries")
	}
	found, err := s.configMaps().Get(s.ctx, "counter", metav1.GetOptions{})
	s.must(err, "get")
	s.equal(found.Data["n"], strings.Repeat("x", writers), "what the writers wrote")
	s.step("no update of %d writers was lost", writers)
}

func configurationOf(name string, data map[string]string, namespace string) []byte {
	text, _ := json.Marshal(map[string]interface{}{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]string{"name": name, "namespace": namespace}, "data": data,
	})
	return text
}

// Server-side apply, with its owners and conflicts.
func applied(s *section) {
	apply := func(manager string, force bool, data map[string]string) (*corev1.ConfigMap, error) {
		return s.configMaps().Patch(s.ctx, "a", types.ApplyPatchType, configurationOf("a", data, s.namespace), metav1.PatchOptions{FieldManager: manager, Force: &force})
	}
	_, err := apply("one", false, map[string]string{"x": "1", "y": "1"})
	s.must(err, "apply")
	_, err = apply("two", false, map[string]string{"x": "2", "z": "2"})
	s.refused(err, apierrors.IsConflict, `conflict with "one"`, ".data.x")
	status := &apierrors.StatusError{}
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) != 1 ||
		status.Status().Details.Causes[0].Type != metav1.CauseTypeFieldManagerConflict || status.Status().Details.Causes[0].Field != ".data.x" {
		s.fail("the conflict has not its cause: %#v", err)
	}
	s.step("conflicted with another owner")
	found, err := apply("two", true, map[string]string{"x": "2", "z": "2"})
	s.must(err, "apply by force")
	s.equal(found.Data, map[string]string{"x": "2", "y": "1", "z": "2"}, "the data after an apply by force")
	managers := map[string]string{}
	for _, entry := range found.ManagedFields {
		s.equal(entry.Operation, metav1.ManagedFieldsOperationApply, "the operation of an owner")
		managers[entry.Manager] = string(entry.FieldsV1.Raw)
	}
	s.equal(managers, map[string]string{"one": `{"f:data":{"f:y":{}}}`, "two": `{"f:data":{"f:x":{},"f:z":{}}}`}, "the owners")
	found, err = apply("one", false, map[string]string{})
	s.must(err, "apply of less")
	s.equal(found.Data, map[string]string{"x": "2", "z": "2"}, "the data after an apply of less")
	again, err := apply("one", false, map[string]string{})
	s.must(err, "apply of the same")
	s.equal(again.ResourceVersion, found.ResourceVersion, "the version after an apply of the same")
	s.step("took over by force, and gave up")
	_, err = s.configMaps().Patch(s.ctx, "a", types.ApplyPatchType, configurationOf("a", nil, s.namespace), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid, "fieldManager: Required value")
	_, err = s.configMaps().Update(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"x": "3"}}, metav1.UpdateOptions{FieldManager: "three"})
	s.must(err, "update")
	_, err = apply("two", false, map[string]string{"x": "2"})
	s.refused(err, apierrors.IsConflict, `conflict with "three" using v1`)
	s.step("conflicted with an update")
}

var users = schema.GroupVersionResource{Group: "clients.example.com", Version: "v1", Resource: "users"}

func definition() *apiextensionsv1.CustomResourceDefinition {
	maximum := float64(10)
	keep := true
	path := ".spec.mail"
	properties := func(properties map[string]apiextensionsv1.JSONSchemaProps, required ...string) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties, Required: required}
	}
	spec := properties(map[string]apiextensionsv1.JSONSchemaProps{
		"mail":     {Type: "string", Pattern: "^.+@.+$"},
		"level":    {Type: "integer", Maximum: &maximum, Default: &apiextensionsv1.JSON{Raw: []byte("1")}},
		"replicas": {Type: "integer"},
		"free":     {Type: "object", XPreserveUnknownFields: &keep},
	}, "mail")
	status := properties(map[string]apiextensionsv1.JSONSchemaProps{"state": {Type: "string"}, "replicas": {Type: "integer"}})
	whole := properties(map[string]apiextensionsv1.JSONSchemaProps{"spec": spec, "status": status})
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: users.Resource + "." + users.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: users.Group,
			Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: users.Resource, Singular: "user", Kind: "User", ListKind: "UserList", ShortNames: []string{"cu"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: users.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &whole},
				Subresources: &apiextensionsv1.CustomResourceSubresources{
					Status: &apiextensionsv1.CustomResourceSubresourceStatus{},
					Scale:  &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.replicas", StatusReplicasPath: ".status.replicas"},
				},
				AdditionalPrinterColumns: []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Mail", Type: "string", JSONPath: path}},
			}},
		},
	}
}

func user(name, mail string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]interface{}{
		"apiVersion": users.Group + "/" + users.Version,
		"kind":       "User",
		"metadata":   map[string]interface{}{"name": name},
		"spec":       map[string]interface{}{"mail": mail, "unknown": "field", "free": map[string]interface{}{"any": "thing"}},
	}}
}

// A kind that is not known beforehand: its definition, its objects, and how they are found.
func custom(s *section) {
	definitions, err := apiextensions.NewForConfig(s.config)
	s.must(err, "a client of definitions")
	crds := definitions.ApiextensionsV1().CustomResourceDefinitions()
	made := definition()
	_, err = crds.Create(s.ctx, made, metav1.CreateOptions{})
	s.must(err, "creating a definition")
	defer func() { _ = crds.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) }()
	s.eventually("the definition to be established", func() (bool, error) {
		found, err := crds.Get(s.ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	s.step("established a definition")

	client, err := dynamic.NewForConfig(s.config)
	s.must(err, "a dynamic client")
	objects := client.Resource(users).Namespace(s.namespace)
	var ann *unstructured.Unstructured
	// A real server may take a moment more to serve what is established.
	s.eventually("the first custom object", func() (bool, error) {
		ann, err = objects.Create(s.ctx, user("ann", "a@b"), metav1.CreateOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	s.equal(ann.Object["spec"], map[string]interface{}{"mail": "a@b", "level": int64(1), "free": map[string]interface{}{"any": "thing"}}, "the pruned and defaulted object")
	s.equal(ann.GetGeneration(), int64(1), "the generation")
	_, err = objects.Create(s.ctx, user("ben", "nonsense"), metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, `User.clients.example.com "ben" is invalid: spec.mail`, "should match '^.+@.+$'")
	missing := user("ben", "")
	unstructured.RemoveNestedField(missing.Object, "spec", "mail")
	_, err = objects.Create(s.ctx, missing, metav1.CreateOptions{})
	s.refused(err, apierrors.IsInvalid, "spec.mail: Required value")
	s.step("created a custom object, and was refused bad ones")

	s.must(unstructured.SetNestedField(ann.Object, "up", "status", "state"), "set")
	s.must(unstructured.SetNestedField(ann.Object, "c@d", "spec", "mail"), "set")
	updated, err := objects.UpdateStatus(s.ctx, ann, metav1.UpdateOptions{})
	s.must(err, "update of the status")
	mail, _, _ := unstructured.NestedString(updated.Object, "spec", "mail")
	state, _, _ := unstructured.NestedString(updated.Object, "status", "state")
	s.equal([]string{mail, state}, []string{"a@b", "up"}, "spec and status after an update of the status")
	s.equal(updated.GetGeneration(), int64(1), "the generation after an update of the status")
	patched, err := objects.Patch(s.ctx, "ann", types.MergePatchType, []byte(`{"spec":{"level":5},"status":{"state":"down"}}`), metav1.PatchOptions{})
	s.must(err, "merge patch")
	state, _, _ = unstructured.NestedString(patched.Object, "status", "state")
	s.equal(state, "up", "the status after a patch of the object")
	s.equal(patched.GetGeneration(), int64(2), "the generation after a patch of the spec")
	_, err = objects.Patch(s.ctx, "ann", types.StrategicMergePatchType, []byte(`{"spec":{"level":5}}`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsUnsupportedMediaType)
	_, err = objects.Patch(s.ctx, "ann", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/level","value":11}]`), metav1.PatchOptions{})
	s.refused(err, apierrors.IsInvalid, "spec.level")
	force := true
	eve := []byte(`{"apiVersion":"clients.example.com/v1","kind":"User","metadata":{"name":"eve"},"spec":{"mail":"e@v"}}`)
	_, err = objects.Patch(s.ctx, "eve", types.ApplyPatchType, eve, metav1.PatchOptions{FieldManager: "one", Force: &force})
	s.must(err, "apply")
	stale := patched.DeepCopy()
	stale.SetResourceVersion("")
	_, err = objects.Update(s.ctx, stale, metav1.UpdateOptions{})
	s.refused(err, apierrors.IsInvalid, "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update")
	s.step("kept spec and status apart")

	list, err := objects.List(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=ann"})
	s.must(err, "list")
	s.equal(list.GetKind(), "UserList", "the kind of a list")
	s.equal(len(list.Items), 1, "the number of users")
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, s.namespace, nil)
	informer := factory.ForResource(users)
	stop := make(chan struct{})
	defer close(stop)
	go informer.Informer().Run(stop)
	s.eventually("a dynamic informer", func() (bool, error) { return informer.Informer().HasSynced(), nil })
	known, err := informer.Lister().ByNamespace(s.namespace).List(labels.Everything())
	s.must(err, "list of the informer")
	s.equal(len(known), 2, "the number of users that the informer knows")
	s.step("listed and watched custom objects")

	cached := memory.NewMemCacheClient(s.clients.Discovery())
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cached), cached)
	s.eventually("the kind to be discovered", func() (bool, error) {
		cached.Invalidate()
		_, err := mapper.RESTMapping(schema.GroupKind{Group: users.Group, Kind: "User"})
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		return err == nil, err
	})
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: users.Group, Kind: "User"}, users.Version)
	s.must(err, "mapping of a kind")
	s.equal(mapping.Resource, users, "the resource of the kind")
	s.equal(mapping.Scope.Name(), meta.RESTScopeNameNamespace, "the scope of the kind")
	found, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: "cu"})
	s.must(err, "mapping of a short name")
	s.equal(found, users, "the resource of the short name")

	resolver := scale.NewDiscoveryScaleKindResolver(s.clients.Discovery())
	scales, err := scale.NewForConfig(s.config, mapper, dynamic.LegacyAPIPathResolverFunc, resolver)
	s.must(err, "a client of scales")
	wanted, err := scales.Scales(s.namespace).Update(s.ctx, users.GroupResource(), &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "ann", Namespace: s.namespace},
		Spec:       autoscalingv1.ScaleSpec{Replicas: 4},
	}, metav1.UpdateOptions{})
	s.must(err, "update of a custom object's scale")
	s.equal(wanted.Spec.Replicas, int32(4), "the scale of a custom object")
	s.step("found the kind, and scaled it")

	s.must(objects.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}), "deleting all users")
	s.must(crds.Delete(s.ctx, made.Name, metav1.DeleteOptions{}), "deleting the definition")
	s.eventually("the end of the definition", func() (bool, error) {
		_, err := objects.List(s.ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	s.step("took the definition away")
}

// What the server says it serves.
func discovered(s *section) {
	preferred, err := discovery.ServerPreferredResources(s.clients.Discovery())
	s.must(err, "preferred resources")
	versions := map[string]string{}
	for _, list := range preferred {
		for _, resource := range list.APIResources {
			group, _ := schema.ParseGroupVersion(list.GroupVersion)
			versions[schema.GroupResource{Group: group.Group, Resource: resource.Name}.String()] = list.GroupVersion
		}
	}
	for resource, version := range map[string]string{
		"deployments.apps": "apps/v1", "configmaps": "v1", "leases.coordination.k8s.io": "coordination.k8s.io/v1", "ingresses.networking.k8s.io": "networking.k8s.io/v1",
		"cronjobs.batch": "batch/v1beta1", "poddisruptionbudgets.policy": "policy/v1beta1", "ingresses.extensions": "extensions/v1beta1",
		"customresourcedefinitions.apiextensions.k8s.io": "apiextensions.k8s.io/v1", "clusterroles.rbac.authorization.k8s.io": "rbac.authorization.k8s.io/v1",
	} {
		s.equal(versions[resource], version, "the preferred version of "+resource)
	}
	namespaced, err := discovery.ServerPreferredNamespacedResources(s.clients.Discovery())
	s.must(err, "preferred namespaced resources")
	deletable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete", "deletecollection"}}, namespaced)
	if _, err = discovery.GroupVersionResources(deletable); err != nil || len(deletable) == 0 {
		s.fail("nothing can be deleted: %v", err)
	}
	s.step("found the preferred versions")
	groups, err := restmapper.GetAPIGroupResources(s.clients.Discovery())
	s.must(err, "groups")
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	s.must(err, "mapping of a Deployment")
	s.equal(mapping.Resource, appsv1.SchemeGroupVersion.WithResource("deployments"), "the resource of a Deployment")
	mapping, err = mapper.RESTMapping(schema.GroupKind{Kind: "Namespace"})
	s.must(err, "mapping of a Namespace")
	s.equal(mapping.Scope.Name(), meta.RESTScopeNameRoot, "the scope of a Namespace")
	s.check("the OpenAPI document in protobuf", func() {
		document, err := s.clients.Discovery().OpenAPISchema()
		s.must(err, "read")
		models := 0
		for _, model := range document.GetDefinitions().GetAdditionalProperties() {
			if model.GetName() == "io.k8s.api.apps.v1.Deployment" {
				models++
			}
		}
		s.equal(models, 1, "the number of models of a Deployment")
	})
	s.step("mapped kinds")
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		text, err := s.clients.Discovery().RESTClient().Get().AbsPath(path).DoRaw(s.ctx)
		s.must(err, path)
		s.equal(string(text), "ok", path)
	}
	s.step("is healthy")
}

// Two candidates for one Lease: the second leads once the first gives up.
func elected(s *section) {
	started := make(chan string, 4)
	var group sync.WaitGroup
	run := func(identity string) context.CancelFunc {
		ctx, cancel := context.WithCancel(s.ctx)
		group.Add(1)
		go func() {
			defer group.Done()
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: &resourcelock.LeaseLock{
					LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: s.namespace},
					Client:     s.clients.CoordinationV1(),
					LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
				},
				ReleaseOnCancel: true,
				LeaseDuration:   10 * time.Second,
				RenewDeadline:   5 * time.Second,
				RetryPeriod:     2 * time.Second,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) { started <- identity },
					OnStoppedLeading: func() {},
				},
			})
		}()
		return cancel
	}
	leads := func(expected string) {
		select {
		case found := <-started:
			s.equal(found, expected, "the leader")
		case <-time.After(patience):
			s.fail("%s does not lead", expected)
		}
		lease, err := s.clients.CoordinationV1().Leases(s.namespace).Get(s.ctx, "leader", metav1.GetOptions{})
		s.must(err, "get of the Lease")
		s.equal(*lease.Spec.HolderIdentity, expected, "the holder of the Lease")
	}
	endFirst := run("first")
	leads("first")
	endSecond := run("second")
	// A leader that ends while it renews cannot give up its Lease, for it does not know the version. It renews at once and
	// then every two seconds: this is in between.
	time.Sleep(time.Second)
	endFirst()
	leads("second")
	lease, err := s.clients.CoordinationV1().Leases(s.namespace).Get(s.ctx, "leader", metav1.GetOptions{})
	s.must(err, "get of the Lease")
	if lease.Spec.RenewTime == nil || lease.Spec.AcquireTime == nil || lease.Spec.LeaseTransitions == nil {
		s.fail("the Lease is not filled in: %v", lease.Spec)
	}
	s.step("the lead went from one to the other")
	time.Sleep(time.Second)
	endSecond()
	group.Wait()
	lease, err = s.clients.CoordinationV1().Leases(s.namespace).Get(s.ctx, "leader", metav1.GetOptions{})
	s.must(err, "get of the Lease")
	if lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		s.fail("the Lease is still held by %s", *lease.Spec.HolderIdentity)
	}
	s.step("and was given up")
}

// Long lists come in pieces that are of one moment.
func paged(s *section) {
	const count = 23
	for number := 0; number < count; number++ {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", number), Labels: map[string]string{"paged": "yes"}}}
		_, err := s.configMaps().Create(s.ctx, made, metav1.CreateOptions{})
		s.must(err, "create")
	}
	first, err := s.configMaps().List(s.ctx, metav1.ListOptions{LabelSelector: "paged", Limit: 10})
	s.must(err, "the first page")
	if len(first.Items) != 10 || first.Continue == "" {
		s.fail("the first page has %d objects and goes on at %q", len(first.Items), first.Continue)
	}
	if first.RemainingItemCount != nil {
		s.fail("a list with a selector tells how many remain")
	}
	s.must(s.configMaps().Delete(s.ctx, "page-15", metav1.DeleteOptions{}), "delete")
	second, err := s.configMaps().List(s.ctx, metav1.ListOptions{LabelSelector: "paged", Limit: 10, Continue: first.Continue})
	s.must(err, "the second page")
	s.equal(second.ResourceVersion, first.ResourceVersion, "the version of the second page")
	s.equal(second.Items[5].Name, "page-15", "an object that was deleted since the first page")
	_, err = s.configMaps().List(s.ctx, metav1.ListOptions{Limit: 10, Continue: "nonsense"})
	s.refused(err, apierrors.IsBadRequest, "continue key is not valid")
	all, err := s.configMaps().List(s.ctx, metav1.ListOptions{Limit: 5})
	s.must(err, "a page")
	if all.RemainingItemCount == nil || *all.RemainingItemCount < count-1-5 {
		s.fail("a list without a selector does not tell how many remain")
	}
	s.step("turned pages of one moment")
	requests := 0
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		requests++
		return s.configMaps().List(s.ctx, options)
	}))
	pages.PageSize = 5
	found, paginated, err := pages.List(s.ctx, metav1.ListOptions{LabelSelector: "paged"})
	s.must(err, "list with a pager")
	s.equal(paginated, true, "the pager turned pages")
	s.equal(meta.LenList(found), count-1, "the number of objects")
	s.equal(requests, 5, "the number of pages")
	s.step("listed with a pager")
}

// Who may do what, and that it is held to.
func allowed(s *section) {
	s.configMap("a", nil)
	ask := func(clients kubernetes.Interface, verb, group, resource string) bool {
		review, err := clients.AuthorizationV1().SelfSubjectAccessReviews().Create(s.ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: s.namespace, Verb: verb, Group: group, Resource: resource}},
		}, metav1.CreateOptions{})
		s.must(err, "a review of one's own access")
		return review.Status.Allowed
	}
	s.equal(ask(s.clients, "delete", "", "configmaps"), true, "the access of an administrator")
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "ann", Groups: []string{"team"}, Extra: map[string][]string{"reason": {"test"}}}
	ann, err := kubernetes.NewForConfig(config)
	s.must(err, "a client that is another")
	s.equal(ask(ann, "get", "", "configmaps"), false, "the access of a user without rights")
	_, err = ann.CoreV1().ConfigMaps(s.namespace).Get(s.ctx, "a", metav1.GetOptions{})
	s.refused(err, apierrors.IsForbidden, `configmaps "a" is forbidden: User "ann" cannot get resource "configmaps" in API group "" in the namespace "`+s.namespace+`"`)
	s.step("a user without rights is refused")

	_, err = s.clients.RbacV1().Roles(s.namespace).Create(s.ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}}},
	}, metav1.CreateOptions{})
	s.must(err, "creating a Role")
	_, err = s.clients.RbacV1().RoleBindings(s.namespace).Create(s.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "readers"},
		Subjects:   []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "team"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
	}, metav1.CreateOptions{})
	s.must(err, "creating a RoleBinding")
	s.eventually("the Role to count", func() (bool, error) { return ask(ann, "get", "", "configmaps"), nil })
	_, err = ann.CoreV1().ConfigMaps(s.namespace).Get(s.ctx, "a", metav1.GetOptions{})
	s.must(err, "get with the Role")
	s.refused(ann.CoreV1().ConfigMaps(s.namespace).Delete(s.ctx, "a", metav1.DeleteOptions{}), apierrors.IsForbidden)
	_, err = ann.CoreV1().ConfigMaps("").List(s.ctx, metav1.ListOptions{})
	s.refused(err, apierrors.IsForbidden, "at the cluster scope")
	rules, err := ann.AuthorizationV1().SelfSubjectRulesReviews().Create(s.ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: s.namespace},
	}, metav1.CreateOptions{})
	s.must(err, "a review of one's own rules")
	ours := 0
	for _, rule := range rules.Status.ResourceRules {
		if reflect.DeepEqual(rule.Resources, []string{"configmaps"}) {
			ours++
		}
	}
	s.equal(ours, 1, "the number of rules about ConfigMaps")
	review, err := s.clients.AuthorizationV1().SubjectAccessReviews().Create(s.ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "ben", Groups: []string{"team"}, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: s.namespace, Verb: "list", Resource: "configmaps"}},
	}, metav1.CreateOptions{})
	s.must(err, "a review of another's access")
	s.equal(review.Status.Allowed, true, "the access of another in the group")
	s.step("a Role opens what it names")

	_, err = ann.RbacV1().Roles(s.namespace).Create(s.ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more"}}, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden)
	_, err = s.clients.RbacV1().RoleBindings(s.namespace).Create(s.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "admins"},
		Subjects:   []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "team"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
	}, metav1.CreateOptions{})
	s.must(err, "creating a RoleBinding")
	s.eventually("the binding to count", func() (bool, error) { return ask(ann, "create", "apps", "deployments"), nil })
	greedy := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "greedy"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
	}
	_, err = ann.RbacV1().Roles(s.namespace).Create(s.ctx, greedy, metav1.CreateOptions{})
	s.refused(err, apierrors.IsForbidden, "attempting to grant RBAC permissions not currently held")
	s.step("nobody hands out more than is their own")

	_, err = s.clients.CoreV1().ServiceAccounts(s.namespace).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	s.must(err, "creating a ServiceAccount")
	seconds := int64(3600)
	token, err := s.clients.CoreV1().ServiceAccounts(s.namespace).CreateToken(s.ctx, "robot", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	s.must(err, "asking for a token")
	config = rest.AnonymousClientConfig(s.config)
	config.BearerToken = token.Status.Token
	robot, err := kubernetes.NewForConfig(config)
	s.must(err, "a client with the token")
	_, err = robot.CoreV1().ConfigMaps(s.namespace).List(s.ctx, metav1.ListOptions{})
	s.refused(err, apierrors.IsForbidden, `User "system:serviceaccount:`+s.namespace+`:robot" cannot list`)
	tokens, err := s.clients.AuthenticationV1().TokenReviews().Create(s.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	s.must(err, "a review of the token")
	s.equal(tokens.Status.Authenticated, true, "the token is good")
	s.equal(tokens.Status.User.Username, "system:serviceaccount:"+s.namespace+":robot", "the token's user")
	config.BearerToken = "nonsense"
	nobody, err := kubernetes.NewForConfig(config)
	s.must(err, "a client with a bad token")
	_, err = nobody.CoreV1().ConfigMaps(s.namespace).List(s.ctx, metav1.ListOptions{})
	s.refused(err, apierrors.IsUnauthorized)
	s.step("a token is its account")
}

// Objects of which only the metadata is wanted, as the garbage collector reads them.
func metadataOnly(s *section) {
	client, err := metadata.NewForConfig(s.config)
	s.must(err, "a client of metadata")
	objects := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(s.namespace)
	created := s.configMap("a", map[string]string{"large": "data"})
	found, err := objects.Get(s.ctx, "a", metav1.GetOptions{})
	s.must(err, "get")
	s.equal(found.ObjectMeta.UID, created.UID, "the UID")
	list, err := objects.List(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"})
	s.must(err, "list")
	s.equal(len(list.Items), 1, "the number of objects")
	s.step("read metadata alone")
	watcher, err := objects.Watch(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, FieldSelector: "metadata.name=a"})
	s.must(err, "watch")
	defer watcher.Stop()
	patched, err := objects.Patch(s.ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"l":"1"}}}`), metav1.PatchOptions{})
	s.must(err, "patch")
	s.equal(patched.Labels, map[string]string{"l": "1"}, "the labels after a patch")
	select {
	case event := <-watcher.ResultChan():
		partial, ok := event.Object.(*metav1.PartialObjectMetadata)
		if !ok || event.Type != watch.Modified || partial.Labels["l"] != "1" {
			s.fail("a strange event: %v", event)
		}
	case <-time.After(patience):
		s.fail("the watch shows nothing")
	}
	s.must(objects.Delete(s.ctx, "a", metav1.DeleteOptions{}), "delete")
	s.step("watched, patched and deleted by metadata alone")
}

// Events come as controllers write them: the same one again only counts up.
func recorded(s *section) {
	about := s.configMap("a", nil)
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.clients.CoreV1().Events(s.namespace)})
	defer broadcaster.Shutdown()
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "client"})
	recorder.Event(about, corev1.EventTypeNormal, "Tested", "it was tested")
	recorder.Event(about, corev1.EventTypeNormal, "Tested", "it was tested")
	selector := s.clients.CoreV1().Events(s.namespace).GetFieldSelector(&about.Name, &s.namespace, nil, nil).String()
	s.eventually("the event", func() (bool, error) {
		events, err := s.clients.CoreV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{FieldSelector: selector})
		return err == nil && len(events.Items) == 1 && events.Items[0].Count == 2 && events.Items[0].Reason == "Tested", err
	})
	s.step("recorded an event twice, as one")
}

var sections = []struct {
	name string
	run  func(*section)
}{
	{"typed", typed},
	{"protobuf", typedWithProtobuf},
	{"workloads", workloads},
	{"informer", informed},
	{"watch", watched},
	{"conflicts", conflicts},
	{"apply", applied},
	{"custom", custom},
	{"discovery", discovered},
	{"election", elected},
	{"pages", paged},
	{"access", allowed},
	{"metadata", metadataOnly},
	{"events", recorded},
}

// Runs a section in a namespace that is made for it and removed after it.
func run(config *rest.Config, name string, body func(*section)) (failed string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err.Error()
	}
	s := &section{ctx: ctx, name: name, config: config, clients: clients}
	defer func() {
		if s.namespace != "" {
			err := clients.CoreV1().Namespaces().Delete(context.Background(), s.namespace, metav1.DeleteOptions{})
			if err != nil && failed == "" {
				failed = "deleting the namespace: " + err.Error()
			}
		}
	}()
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			failed = reason.text
		default:
			panic(reason)
		}
	}()
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "go-" + name + "-"}}
	namespace, err := clients.CoreV1().Namespaces().Create(ctx, made, metav1.CreateOptions{})
	s.must(err, "creating a namespace")
	s.namespace = namespace.Name
	body(s)
	return strings.Join(s.differences, "\n  ")
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "the kubeconfig is not usable:", err)
		os.Exit(1)
	}
	// As fast as the server answers.
	config.QPS, config.Burst = 1000, 1000
	wanted := map[string]bool{}
	for _, argument := range os.Args[1:] {
		if argument == "--skip-protobuf" {
			skipProtobuf = true
		} else {
			wanted[argument] = true
		}
	}
	failures := 0
	for _, section := range sections {
		if len(wanted) > 0 && !wanted[section.name] {
			continue
		}
		if failed := run(config, section.name, section.run); failed != "" {
			failures++
			fmt.Fprintf(os.Stderr, "%s FAILED: %s\n", section.name, failed)
		}
	}
	if failures > 0 {
		fmt.Fprintf(os.Stderr, "%d sections failed\n", failures)
		os.Exit(1)
	}
}
