import static java.nio.charset.StandardCharsets.UTF_8;

import jakarta.servlet.MultipartConfigElement;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.stream.Collectors;
import org.apache.catalina.startup.Tomcat;

/** Spring passes multipart requests to the parser of its servlet container, which is Tomcat. */
public class TomcatForm extends HttpServlet {
    static final PrintStream OUT = new PrintStream(System.out, true, UTF_8);

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response)
            throws IOException, ServletException {
        request.setCharacterEncoding("UTF-8");
        byte[] payload = request.getPart("payload").getInputStream().readAllBytes();
        String fields = request.getParameterMap().entrySet().stream()
                .map(field -> quoted(field.getKey()) + ":" + quoted(field.getValue()[0]))
                .collect(Collectors.joining(","));
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(payload);
            String hex = HexFormat.of().formatHex(digest);
            OUT.println("{\"fields\":{" + fields + "},\"payload\":\"" + hex + "\"}");
        } catch (java.security.NoSuchAlgorithmException error) {
            throw new ServletException(error);
        }
        response.setStatus(204);
    }

    static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    public static void main(String[] arguments) throws Exception {
        Path directory = Files.createTempDirectory(Path.of(arguments[0]), "tomcat");
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(directory.toString());
        tomcat.setPort(0);
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        var context = tomcat.addContext("", directory.toString());
        var servlet = Tomcat.addServlet(context, "form", new TomcatForm());
        servlet.setMultipartConfigElement(new MultipartConfigElement(directory.toString()));
        context.addServletMappingDecoded("/*", "form");
        tomcat.start();
        OUT.println("listening on port " + tomcat.getConnector().getLocalPort());
        tomcat.getServer().await();
    }
}
