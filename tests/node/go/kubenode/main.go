// Command kubenode holds what a node of a test cluster runs: the kubelet,
// kube-proxy and a device plugin. The first argument selects the program.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/restclient"
	_ "k8s.io/component-base/metrics/prometheus/version"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// program runs with its arguments (its own name left out) and returns an exit code.
type program func(args []string) int

var programs = map[string]program{
	"devices":    runDevices,
	"kube-proxy": component(proxy.NewProxyCommand),
	"kubelet":    component(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func main() {
	var run program
	if len(os.Args) > 1 {
		run = programs[os.Args[1]]
	}
	if run == nil {
		names := slices.Sorted(maps.Keys(programs))
		fmt.Fprintf(os.Stderr, "usage: kubenode %s [flags]\n", strings.Join(names, "|"))
		os.Exit(2)
	}
	os.Args = os.Args[1:] // klog reads them itself
	os.Exit(run(os.Args[1:]))
}

func component(command func() *cobra.Command) program {
	return func(args []string) int {
		made := command()
		made.SetArgs(args)
		return cli.Run(made)
	}
}
