// Command kubelocal holds every program of the local cluster in one binary: the
// control plane, kubectl and helm. The first argument, or the name under which
// it was started, selects the program.
package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	helm "helm.sh/helm/v4/pkg/cmd"
	helmkube "helm.sh/helm/v4/pkg/kube"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// program runs with its arguments (its own name left out) and returns an exit code.
type program func(args []string) int

var programs = map[string]program{
	"etcd":                    runEtcd,
	"helm":                    runHelm,
	"kubectl":                 runKubectl,
	"kube-apiserver":          component(apiserver.NewAPIServerCommand),
	"kube-controller-manager": component(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	run, known := programs[name]
	if !known && len(args) > 0 {
		name, args = args[0], args[1:]
		run, known = programs[name]
	}
	if !known {
		names := slices.Sorted(maps.Keys(programs))
		fmt.Fprintf(os.Stderr, "usage: kubelocal %s [flags]\n", strings.Join(names, "|"))
		os.Exit(2)
	}
	// etcd, kubectl's plugin lookup and klog read os.Args themselves.
	os.Args = append([]string{name}, args...)
	os.Exit(run(args))
}

func component(build func() *cobra.Command) program {
	return func(args []string) int {
		command := build()
		command.SetArgs(args)
		return cli.Run(command)
	}
}

func runEtcd(args []string) int {
	etcdmain.Main(append([]string{"etcd"}, args...))
	return 0
}

func runKubectl(args []string) int {
	command := kubectl.NewDefaultKubectlCommand()
	command.SetArgs(args)
	if err := cli.RunNoErrOutput(command); err != nil {
		kubectlutil.CheckErr(err)
		return 1
	}
	return 0
}

func runHelm(args []string) int {
	helmkube.ManagedFieldsManager = "helm"
	command, err := helm.NewRootCmd(os.Stdout, args, helm.SetupLogging)
	if err == nil {
		err = command.Execute()
	} else {
		slog.Warn("helm could not start", slog.Any("error", err))
	}
	var failed helm.CommandError
	switch {
	case errors.As(err, &failed):
		return failed.ExitCode
	case err != nil:
		return 1
	}
	return 0
}
