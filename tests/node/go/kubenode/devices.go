package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const socketName = "pretended.sock"

// pretended is a device plugin whose devices do not exist: the kubelet and the
// scheduler count and hand them out as they would GPUs.
type pretended struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func (p *pretended) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *pretended) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *pretended) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return answer, nil
}

func runDevices(args []string) int {
	flags := flag.NewFlagSet("devices", flag.ExitOnError)
	folder := flags.String("folder", api.DevicePluginPath, "where the kubelet looks for the sockets of plugins")
	resource := flags.String("resource", "nvidia.com/gpu", "name of the resource")
	count := flags.Int("count", 2, "how many devices there are")
	_ = flags.Parse(args)
	plugin := &pretended{}
	for i := range *count {
		plugin.devices = append(plugin.devices, &api.Device{ID: strconv.Itoa(i), Health: api.Healthy})
	}
	for {
		// The kubelet removes the sockets of all plugins when it starts.
		if err := plugin.serve(*folder, *resource); err != nil {
			fmt.Fprintln(os.Stderr, "devices:", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// serve registers the plugin and returns once its socket is gone.
func (p *pretended) serve(folder, resource string) error {
	socket := filepath.Join(folder, socketName)
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	defer server.Stop()
	api.RegisterDevicePluginServer(server, p)
	go func() { _ = server.Serve(listener) }()
	if err := register(folder, resource); err != nil {
		return err
	}
	for err == nil {
		time.Sleep(200 * time.Millisecond)
		_, err = os.Stat(socket)
	}
	return nil
}

func register(folder, resource string) error {
	target := "unix://" + filepath.Join(folder, "kubelet.sock")
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: socketName, ResourceName: resource}
	_, err = api.NewRegistrationClient(connection).Register(ctx, request)
	return err
}
